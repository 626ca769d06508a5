"""Names of the classes of a model, and the folders that hold their images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.errors import UserError
from vision.input_pipeline import ImageFolder, read_image_folder
from vision.label_file import read_labels

_NUM_LISTED = 5


class Classes(NamedTuple):
    """Classes in the order of their numbers; both are None where nothing is known.

    Attributes:
        names: for people.
        folders: what the folders of a data set are called where that is something else: WordNet's
            numbers for ImageNet.
    """

    names: list[str] | None = None
    folders: list[str] | None = None

    def name(self, number: int) -> str | None:
        """The name of a class, if any."""
        return self.names[number] if self.names else None

    @property
    def aliases(self) -> Sequence[tuple[str, ...]]:
        """For each class what its folder may be called; empty where nothing is known.

        A folder may have both names in its own: `n01440764 tench`.
        """
        if not (self.names and self.folders):
            return [(name,) for name in self.names or self.folders or ()]
        pairs = zip(self.names, self.folders, strict=True)
        return [(name, folder, f"{folder} {name}") for name, folder in pairs]


def read_classes(path: str | Path, num_classes: int) -> Classes:
    """Reads a label file; see `label_file.read_labels`.

    Raises:
        UserError: it cannot be read, or has other classes.
    """
    names, folders = read_labels(path, _read_text(path, "--imagenet_label_file"))
    if len(names) != num_classes or len(folders) not in (0, num_classes):
        raise UserError.expected(
            f"{num_classes} classes in {path}, all with WordNet's number or none",
            f"{len(names)} classes, {len(folders)} with it",
            "Use the label file of the model",
        )
    return Classes(names, folders or None)


def read_own_classes(path: Path) -> Classes:
    """Reads the names of class folders that training has written, `INDEX FOLDER`, as they are.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    numbered = [line.partition(" ") for line in _read_text(path, "list of classes").splitlines()]
    numbers = [number for number, _, _ in numbered]
    if not numbered or numbers != [str(x) for x in range(len(numbered))]:
        raise UserError.expected(
            f"classes numbered from 0 in {path}", _some(numbers) or "none", "Choose another"
        )
    return Classes([name for _, _, name in numbered])


def renamed(known: Classes, folders: Sequence[str]) -> str:
    """Tells which class folders are none of the classes of their numbers; empty: all are the same.

    Args:
        known: classes, which have names.
        folders: of a data set, in the order of their numbers.
    """
    if len(folders) != len(known.aliases):
        return f"{len(folders)} classes instead of {len(known.aliases)}"
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
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise UserError.expected(f"a readable {what}", f"{path}: {reason}", "Correct it") from error


def classes_of(pipeline: Mapping, label_file: str | None) -> Classes:
    """The classes that a model knows, by the names of a label file where there is one."""
    known = Classes(pipeline["class_names"], pipeline["class_folders"])
    return named_by(known, label_file, pipeline["num_classes"])


def named_by(known: Classes, label_file: str | None, num_classes: int) -> Classes:
    """Gives the classes of a model the names of a label file; data keep the folders of both.

    Args:
        known: what the model tells of its classes.
        label_file: see `read_classes`; none leaves the classes as they are.
        num_classes: of the model.

    Raises:
        UserError: the file cannot be read, has other classes, or has them in another order.
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
                f"class {number} is {moved[0]}, which the model has as class {numbers[moved[0]]}",
                "Use the label file of the model",
            )
    return given if given.folders else Classes(given.names, known.folders or known.names)


def read_labelled(data_dir: str | Path, classes: Classes, num_classes: int) -> ImageFolder:
    """Lists the images of an ImageFolder with the class numbers of a model.

    Raises:
        UserError: nothing tells which folder holds which class, or there are no images.
    """
    found = read_image_folder(data_dir, classes.aliases)
    if not classes.aliases and len(found.classes) != num_classes:
        raise UserError.expected(
            f"{num_classes} class folders in {data_dir}, or names of the classes",
            f"{len(found.classes)} folders",
            "Name an --imagenet_label_file",
        )
    return found


def top_classes(scores: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the best classes, `[B, count]` of `[B, V]`; of equal ones the first."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :count]
