"""Images to evaluate: which files there are, and reading them ahead in threads."""

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tools.errors import UserError
from tools.threads import in_threads
from vision.config import PreprocessingConfig
from vision.images import ImageError, read_image

INFER_SUFFIXES = frozenset((".png", ".jpg", ".jpeg"))
SUFFIXES = INFER_SUFFIXES | {".bmp", ".gif", ".tif", ".tiff", ".webp"}
_FOREIGN = "__MACOSX"  # what unpacking leaves
_AHEAD = 4  # batches


def find_images(place: str | Path, suffixes: frozenset[str] = INFER_SUFFIXES) -> list[str]:
    """Lists an image, or the images right in a folder by name.

    Raises:
        UserError: there is none.
    """
    path = Path(place)
    if path.is_dir():
        found = sorted(_images(path.iterdir(), suffixes))
        if not found:
            raise UserError.expected(
                f"images ({', '.join(sorted(suffixes))}) in {path}", "none", "Choose another folder"
            )
        return [str(x) for x in found]
    if not path.exists():
        raise UserError.expected(
            "an image or a folder of images", f"{place}: nothing", "Correct it"
        )
    return [str(place)]


def _images(paths, suffixes: frozenset[str]) -> Iterator[Path]:
    for path in paths:
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            yield path


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Images in folders by class.

    Attributes:
        paths: of the images.
        labels: class numbers of the images.
        classes: names of the folders whose images are used, by class number.
        remarks: `(folder, what is odd about it)`.
    """

    paths: list[str]
    labels: list[int]
    classes: dict[int, str]
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def sample(self, count: int, seed: int) -> "ImageFolder":
        """A random part of `count` images, the same for the same seed; -1, or too many: all."""
        if not 0 < count < len(self.paths):
            return self
        generator = np.random.default_rng(seed)
        chosen = sorted(generator.choice(len(self.paths), count, replace=False).tolist())
        paths, labels = [self.paths[i] for i in chosen], [self.labels[i] for i in chosen]
        return ImageFolder(paths, labels, self.classes, self.remarks)


def read_image_folder(root: str | Path, class_names: Sequence[Sequence[str]] = ()) -> ImageFolder:
    """Lists an ImageFolder: `root/CLASS/image`, also deeper.

    Args:
        root: of the tree.
        class_names: for each class the names that its folder may have. The folders of other
            classes are left out. Without, folders are numbered by the order of their names.

    Raises:
        UserError: there is no class, or no image.
    """
    root = Path(root)
    try:
        inside = sorted(root.iterdir())
    except OSError as error:
        raise UserError.expected(
            "a folder of class folders", f"{root}: {error.strerror}", "Correct it"
        ) from error
    ignored = (".", _FOREIGN)
    folders = [x for x in inside if x.is_dir() and not x.name.startswith(ignored)]
    if not folders:
        raise UserError.expected(f"class folders in {root}", "none", "Put images into CLASS/")
    names = class_names or [[folder.name] for folder in folders]
    numbers = {name: number for number, several in enumerate(names) for name in several}
    found = ImageFolder([], [], {})
    for folder in folders:
        number = numbers.get(folder.name)
        if number is None:
            found.remarks.append((str(folder), "no class of the model"))
            continue
        images = sorted(_images(folder.rglob("*"), SUFFIXES))
        images = [x for x in images if _FOREIGN not in x.parts]
        if not images:
            found.remarks.append((str(folder), "no images"))
        found.paths.extend(map(str, images))
        found.labels.extend([number] * len(images))
        found.classes[number] = folder.name
    if not found.paths:
        strange = sorted(folder.name for folder in folders if folder.name not in numbers)
        if len(strange) == len(folders):
            raise UserError.expected(
                f"folders in {root} that are called like classes, such as {_some(numbers)}",
                _some(strange),
                "Rename them, or choose a model of these classes",
            )
        raise UserError.expected(f"images in the class folders of {root}", "none", "Add some")
    return found


def _some(names: Iterable[str]) -> str:
    """The first few of many names."""
    first = list(itertools.islice(names, 6))
    return ", ".join(first[:5]) + (", and more" if len(first) > 5 else "")


class Batches:
    """Reads images in threads, ahead of who takes them, and puts those that can be read together.

    Attributes:
        reasons: why images could not be read, by index; complete when all batches were taken.
        waiting_seconds: how long the taker has waited for images.

    Args:
        paths: of the images.
        preprocessing: see `images.read_image`.
        batch_size: of all batches but the last.
        num_threads: readers; 0: as many as cores.
        prefetch: images read ahead; 0: four batches.
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
        """Gives indices and float32 `[B, H, W, 3]`."""
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
