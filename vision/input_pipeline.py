"""Lists the image files of a data set, and reads images in background threads."""

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.amounts import counted
from tools.errors import UserError
from tools.files import folders_above, one_line
from tools.threads import in_threads
from vision.config import PreprocessingConfig
from vision.images import ImageError, read_image, read_rgb

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)
_FOREIGN = "__MACOSX"  # folder of metadata in archives made by macOS
_AHEAD = 4  # number of batches that are read in advance


class Listing(NamedTuple):
    """Images in a folder, in order of name, and the other files in it.

    Attributes:
        paths: paths of the images.
        left_out: `(path, reason)` of files and folders that are neither images nor hidden.
    """

    paths: list[str]
    left_out: list[tuple[str, str]]


def find_images(place: str | Path) -> Listing:
    """Lists the images in a folder, without its subfolders. `place` can also be an image.

    Raises:
        UserError: there are no images.
    """
    path = Path(place)
    if path.is_dir():
        found = _list_folder(path, deep=False)
        if not found.paths:
            some = f"{counted(len(found.left_out), 'other')}: " if found.left_out else "none"
            raise UserError.expected(
                f"images ({', '.join(sorted(SUFFIXES))}) in {path}",
                some + _some(f"{other} ({reason})" for other, reason in found.left_out),
                "Select another folder",
            )
        return found
    if not path.exists():
        raise UserError.expected(
            "an image or a folder of images", f"{place}: no such file or folder", "Correct the path"
        )
    return Listing([str(place)], [])


def check_readable(paths: Sequence[str]) -> None:
    """Checks that at least one image can be read. Called before the model is opened.

    Raises:
        UserError: none of the images can be read.
    """
    reasons = {}
    for path in paths:
        try:
            read_rgb(path)
            return
        except ImageError as error:
            reasons[path] = error.reason
    raise unreadable(reasons)


def unreadable(reasons: Mapping[str, str]) -> UserError:
    """Returns the error for unreadable images, given the reasons by path."""
    bad = "; ".join(f"{path} ({reason})" for path, reason in itertools.islice(reasons.items(), 5))
    return UserError.expected("images that can be read", bad, "Check the files")


def _list_folder(folder: Path, deep: bool) -> Listing:
    """Lists the images in a folder, and with `deep` in its subfolders. Links are followed."""
    images: list[Path] = []
    left_out: list[tuple[Path, str]] = []
    # Folders to list, each with the real paths of all folders above it, to detect circular links.
    waiting = [(folder, folders_above(folder) | {os.path.realpath(folder)})]
    while waiting:
        place, above = waiting.pop()
        try:
            inside = sorted(x for x in place.iterdir() if not is_hidden(x.name))
        except OSError as error:
            left_out.append((place, error.strerror or str(error)))
            continue
        for path in inside:
            if path.is_file():
                if path.suffix.lower() in SUFFIXES:
                    images.append(path)
                else:
                    left_out.append((path, "not the suffix of an image"))
            elif not path.is_dir():
                left_out.append((path, "not a file" if path.exists() else "a broken link"))
            elif not deep:
                left_out.append((path, "a folder"))
            elif (real := os.path.realpath(path)) in above:
                left_out.append((path, "a link to a folder above it"))
            else:
                waiting.append((path, above | {real}))
    return Listing(
        [str(path) for path in sorted(images)],
        [(str(path), reason) for path, reason in sorted(left_out)],
    )


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is ignored."""
    return name.startswith((".", _FOREIGN))


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Labelled images: a folder for each class.

    Attributes:
        paths: paths of the images.
        labels: class number of each image.
        classes: names of the class folders, in order of class number.
        remarks: `(folder, remark)` of folders that are not used.
        left_out: `(path, reason)` of files that are neither images nor hidden.
    """

    paths: list[str]
    labels: list[int]
    classes: dict[int, str]
    remarks: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def sample(self, count: int, seed: int) -> "ImageFolder":
        """Returns `count` images chosen at random by the seed; all if -1 or not enough images."""
        if not 0 < count < len(self.paths):
            return self
        generator = np.random.default_rng(seed)
        chosen = sorted(generator.choice(len(self.paths), count, replace=False).tolist())
        paths, labels = [self.paths[i] for i in chosen], [self.labels[i] for i in chosen]
        return replace(self, paths=paths, labels=labels)


def read_image_folder(root: str | Path, class_names: Sequence[Sequence[str]] = ()) -> ImageFolder:
    """Lists an ImageFolder: `root/CLASS/image`, or images in subfolders of `root/CLASS`.

    Links are followed. Hidden files and folders are ignored.

    Args:
        root: folder that contains the class folders.
        class_names: possible folder names of each class. Other folders are left out. If empty,
            all folders are numbered in the order of their names.

    Raises:
        UserError: there are no class folders, or they contain no images.
    """
    root, place = Path(root), one_line(root)
    try:
        inside, above = sorted(root.iterdir()), folders_above(root) | {os.path.realpath(root)}
    except OSError as error:
        raise UserError.expected(
            "a folder of class folders", f"{place}: {error.strerror}", "Correct the folder name"
        ) from error
    inside = [x for x in inside if not is_hidden(x.name)]
    folders = [x for x in inside if x.is_dir() and os.path.realpath(x) not in above]
    if not folders:
        raise UserError.expected(
            f"class folders in {place}",
            "none",
            "Put images into CLASS/; to evaluate a flat folder, write NAME LABEL lines to "
            f"{one_line(root.name)}_label.txt beside it",
        )
    names = class_names or [[folder.name] for folder in folders]
    numbers = {name: number for number, several in enumerate(names) for name in several}
    found = ImageFolder([], [], {})
    for path in inside:
        if not path.exists():
            found.left_out.append((str(path), "a broken link"))
        elif path.is_dir() and path not in folders:
            found.left_out.append((str(path), "a link to a folder above it"))
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            found.left_out.append((str(path), "not in a class folder"))
    for folder in folders:
        number = numbers.get(folder.name)
        if number is None:
            found.remarks.append((str(folder), "not a class of the model"))
            continue
        images, left_out = _list_folder(folder, deep=True)
        if not images:
            found.remarks.append((str(folder), "no images"))
        found.paths.extend(images)
        found.labels.extend([number] * len(images))
        found.left_out.extend(left_out)
        found.classes[number] = folder.name
    if not found.paths:
        strange = sorted(folder.name for folder in folders if folder.name not in numbers)
        if len(strange) == len(folders):
            raise UserError.expected(
                f"folders in {root} with the names of classes, such as {_some(numbers)}",
                _some(strange),
                "Rename them, or select a model of these classes",
            )
        others = [f"{path} ({reason})" for path, reason in found.left_out]
        raise UserError.expected(
            f"images in the class folders of {place}", _some(others) or "none", "Add images"
        )
    return found


def _some(names: Iterable[str]) -> str:
    """Returns the first few names, separated by commas."""
    first = list(itertools.islice(names, 6))
    return ", ".join(first[:5]) + (", and more" if len(first) > 5 else "")


class Batches:
    """Reads images in background threads and batches them. Unreadable images are left out.

    Attributes:
        reasons: reason for each unreadable image, by index; complete after the last batch.
        waiting_seconds: time that the consumer has waited for images.

    Args:
        paths: paths of the images.
        preprocessing: see `images.read_image`.
        batch_size: images per batch; the last batch can be smaller.
        num_threads: number of threads; 0: one for each core.
        prefetch: number of images to read in advance; 0: four batches.
    """

    def __init__(
        self,
        paths: Sequence[str],
        preprocessing: PreprocessingConfig,
        batch_size: int,
        num_threads: int = 0,
        *,
        prefetch: int = 0,
    ):
        self._paths, self._preprocessing, self._batch_size = paths, preprocessing, batch_size
        self._num_threads = num_threads or os.cpu_count() or 1
        self._ahead = max(prefetch or _AHEAD * batch_size, self._num_threads)
        self.reasons: dict[int, str] = {}
        self.waiting_seconds = 0.0

    def __iter__(self) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yields batches: indices of the images, and `[B, H, W, 3]` float32."""
        indices, images = [], []
        threads = {"ahead": self._ahead - 1, "num_threads": self._num_threads}
        with contextlib.closing(in_threads(self._read, self._paths, **threads)) as found:
            for index in range(len(self._paths)):
                started = time.perf_counter()
                image = next(found)
                self.waiting_seconds += time.perf_counter() - started
                if isinstance(image, ImageError):
                    self.reasons[index] = image.reason
                    continue
                indices.append(index)
                images.append(image)
                if len(images) == self._batch_size:
                    yield indices, np.stack(images)
                    indices, images = [], []
        if images:
            yield indices, np.stack(images)

    def _read(self, path: str) -> np.ndarray | ImageError:
        try:
            return read_image(path, self._preprocessing)
        except ImageError as error:
            return error
