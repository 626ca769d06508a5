"""Names of the classes of a model, and names of the folders that contain their images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.amounts import counted
from tools.errors import UserError
from vision.annotations import labels_beside, read_flat_folder
from vision.input_pipeline import ImageFolder, read_image_folder
from vision.label_file import read_labels

_NUM_LISTED = 5


class Classes(NamedTuple):
    """Names of classes in order of class number.

    Attributes:
        names: names to show, or None if they are not known.
        folders: names of the class folders of a data set (WordNet ids for ImageNet), or None if
            they are not known.
    """

    names: list[str] | None = None
    folders: list[str] | None = None

    def name(self, number: int) -> str | None:
        """Returns the name of a class, or None if it has no name."""
        return self.names[number] if self.names else None

    @property
    def aliases(self) -> Sequence[tuple[str, ...]]:
        """The possible folder names of each class; empty if no names are known.

        A folder name can also consist of both names, such as `n01440764 tench`.
        """
        if not (self.names and self.folders):
            return [(name,) for name in self.names or self.folders or ()]
        pairs = zip(self.names, self.folders, strict=True)
        return [(name, folder, f"{folder} {name}") for name, folder in pairs]


def read_classes(path: str | Path, num_classes: int | None = None) -> Classes:
    """Reads a label file; see `label_file.read_labels` for the formats.

    Args:
        path: path of the file.
        num_classes: number of classes that the file must have; None: any number.

    Raises:
        UserError: the file cannot be read, or does not have `num_classes` classes.
    """
    names, folders = read_labels(path, _read_text(path, "--imagenet_label_file"))
    if num_classes is None:
        num_classes = len(names)
    if len(names) != num_classes or len(folders) not in (0, num_classes):
        raise UserError.expected(
            f"{counted(num_classes, 'class')} in {path}, all with a WordNet id or all without",
            f"{counted(len(names), 'class')}, {len(folders)} with a WordNet id",
            "Use the label file of the model",
        )
    return Classes(names, folders or None)


def read_own_classes(path: Path) -> Classes:
    """Reads the `INDEX FOLDER` lines of the class file that training writes.

    Raises:
        UserError: the file cannot be read, or the numbers are not 0, 1, 2, ...
    """
    numbered = [line.partition(" ") for line in _read_text(path, "list of classes").splitlines()]
    numbers = [number for number, _, _ in numbered]
    if not numbered or numbers != [str(x) for x in range(len(numbered))]:
        raise UserError.expected(
            f"classes numbered from 0 in {path}",
            _some(numbers) or "none",
            "Select another checkpoint",
        )
    return Classes([name for _, _, name in numbered])


def renamed(known: Classes, folders: Sequence[str]) -> str:
    """Returns a message that lists the class folders that do not match the classes of a model.

    Args:
        known: classes of the model, with names.
        folders: class folders of a data set, in order of class number.

    Returns:
        The message; empty if all folders match.
    """
    if len(folders) != len(known.aliases):
        return f"{counted(len(folders), 'class')} instead of {len(known.aliases)}"
    pairs = enumerate(zip(folders, known.aliases, strict=True))
    return _some(
        [f"{n}: {name} instead of {own[0]}" for n, (name, own) in pairs if name not in own]
    )


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:_NUM_LISTED]) + (", and more" if len(words) > _NUM_LISTED else "")


def _read_text(path: str | Path, what: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError.expected(
            f"a readable {what}", f"{path}: {reason}", "Correct the file name or the file"
        ) from error


def classes_of(pipeline: Mapping, label_file: str | None) -> Classes:
    """Returns the classes of a `pipeline.json`, with the names of a label file if one is given."""
    known = Classes(pipeline["class_names"], pipeline["class_folders"])
    return named_by(known, label_file, pipeline["num_classes"])


def named_by(known: Classes, label_file: str | None, num_classes: int) -> Classes:
    """Replaces the class names of a model by those of a label file. Known folder names are kept.

    Args:
        known: class names in the model.
        label_file: see `read_classes`; None returns `known`.
        num_classes: number of classes of the model.

    Raises:
        UserError: the file cannot be read, or has other classes or another order of classes.
    """
    if not label_file:
        return known
    given = read_classes(label_file, num_classes)
    if not known.aliases:
        return given
    numbers = {name: number for number, own in enumerate(known.aliases) for name in own}
    for number, (names, own) in enumerate(zip(given.aliases, known.aliases, strict=True)):
        moved = [x for x in names if x in numbers and x not in own]
        if moved:
            raise UserError.expected(
                f"the classes in {label_file} in the order of the model",
                f"class {number} is {moved[0]}, which is class {numbers[moved[0]]} of the model",
                "Use the label file of the model",
            )
    return given if given.folders else Classes(given.names, known.folders or known.names)


def read_labelled(
    data_dir: str | Path, classes: Classes, num_classes: int, anno_file: str | None = None
) -> ImageFolder:
    """Lists the images of an ImageFolder or a flat folder with the class numbers of a model.

    Args:
        data_dir: the ImageFolder; or a flat folder of images with a list of labels.
        classes: class names of the model. Without names, the folders are numbered in the order of
            their names.
        num_classes: number of classes of the model.
        anno_file: list of labels of a flat folder; None: the one that `labels_beside` finds.

    Raises:
        UserError: the folders cannot be assigned to the classes, or there are no images or labels.
    """
    labels = anno_file or labels_beside(data_dir)
    if labels:
        return read_flat_folder(data_dir, labels, num_classes)
    found = read_image_folder(data_dir, classes.aliases)
    if not classes.aliases and len(found.classes) != num_classes:
        raise UserError.expected(
            f"{counted(num_classes, 'class folder')} in {data_dir}, or a model with class names",
            f"{counted(len(found.classes), 'folder')} and a model without class names",
            "Give an --imagenet_label_file",
        )
    return found


def top_classes(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the classes with the largest scores.

    Args:
        scores: `[B, V]`.
        count: number of classes to return.

    Returns:
        `[B, count]` class numbers, best first; of equal scores the smaller number first.
    """
    return np.argsort(-scores, axis=-1, kind="stable")[:, :count]
