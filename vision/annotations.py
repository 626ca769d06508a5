"""Reads flat folders of images with a list of labels: lines `NAME.JPEG LABEL`."""

from pathlib import Path

from tools.errors import UserError
from tools.files import one_line
from vision.input_pipeline import SUFFIXES, ImageFolder, find_images, is_hidden

LABELS_NAME = "val_label.txt"  # beside the folder `val`
_NO_LABEL = "no line in the list of labels"


def read_annotations(path: Path) -> dict[str, int]:
    """Reads lines `NAME.JPEG LABEL`; returns the labels by file name without suffix.

    Raises:
        UserError: the file cannot be read, or a line has another format.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError.expected(
            "a readable --anno_file", f"{path}: {reason}", "Correct --anno_file"
        ) from error
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        *words, label = line.split()
        name = " ".join(words)
        stem = Path(name).stem
        if not stem or not label.isdecimal() or Path(name).suffix.lower() not in SUFFIXES:
            raise _bad_line(path, number, "NAME.JPEG LABEL", line)
        if labels.setdefault(stem, int(label)) != int(label):
            raise _bad_line(path, number, "one label for each image", line)
    if not labels:
        raise UserError.expected("lines of NAME.JPEG LABEL", f"{path}: none", "Correct --anno_file")
    return labels


def _bad_line(path: Path, number: int, expected: str, line: str) -> UserError:
    return UserError.expected(
        expected, f"{path}, line {number}: {one_line(line.strip())}", "Correct the line"
    )


def labels_beside(folder: str | Path) -> Path | None:
    """Returns the list of labels that belongs to a flat folder of images.

    This is `FOLDER_label.txt` beside the folder, such as `val_label.txt` for `val`, or
    `val_label.txt` in it. Returns None if there is no list, or if the folder has subfolders.
    """
    folder = Path(folder)
    try:
        if any(x.is_dir() and not is_hidden(x.name) for x in folder.iterdir()):
            return None
    except OSError:
        return None
    real = folder.absolute()
    places = (real.with_name(f"{real.name}_label.txt"), folder / LABELS_NAME)
    return next((place for place in places if place.is_file()), None)


def read_flat_folder(folder: str | Path, anno_file: str | Path, num_classes: int) -> ImageFolder:
    """Lists the images of a flat folder with their labels.

    Args:
        folder: folder of images. Its subfolders are left out.
        anno_file: file of lines `NAME.JPEG LABEL`.
        num_classes: number of classes of the model.

    Returns:
        The images. `classes` is empty, because the labels are numbers. Images without a label are
        left out; the number of labels without an image is a remark.

    Raises:
        UserError: a file cannot be read, a label is not below `num_classes`, or no image has a
            label.
    """
    place = Path(anno_file)
    labels = read_annotations(place)
    largest = max(labels.values())
    if largest >= num_classes:
        raise UserError.expected(
            f"labels from 0 to {num_classes - 1}, the classes of the model, in {place}",
            largest,
            "Correct the file, or select another model",
        )
    images = find_images(folder)
    found = ImageFolder([], [], {})
    for path in images.paths:
        label = labels.pop(Path(path).stem, None)
        if label is None:
            found.left_out.append((path, _NO_LABEL))
        else:
            found.paths.append(path)
            found.labels.append(label)
    if not found.paths:
        raise UserError.expected(
            f"images in {folder} with a line in {place}",
            f"none among {len(images.paths)} images",
            "Correct --anno_file",
        )
    found.left_out.extend(x for x in images.left_out if Path(x[0]).name != LABELS_NAME)
    if labels:
        found.remarks.append((str(place), f"{len(labels)} of its images are not in {folder}"))
    return found
