"""Opens exported vision Conformers: what programs, Python users and servers hold."""

import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, Unpack, overload

import numpy as np

from tools.config.making_options import from_keywords, takes_options
from tools.conversion.pipeline import describe
from tools.conversion.protocol import Examples
from tools.errors import UserError
from tools.inference.opening import open_runner
from tools.inference.options import RunnerKeywords, RunnerOptions
from tools.inference.runner import Runner
from tools.inference.selection import spread
from tools.inference.session import Session
from tools.threads import in_threads
from vision.classes import Classes, classes_of, read_labelled, top_classes
from vision.config import PreprocessingConfig
from vision.images import ImageError, read_image
from vision.input_pipeline import find_images, read_image_folder

FAMILY = "vision"
BUNDLED_MODEL = Path(__file__).resolve().parent / "pretrained" / "photos"
# A path, the bytes of an image file, a binary file object, or uint8 [H, W, 3].
ImageSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray
Source = TypeVar("Source", bound=ImageSource)
_BATCHES_AHEAD = 2


class Prediction(NamedTuple):
    """A class that an image may be of.

    Attributes:
        index: number of the class.
        name: of the class, where the model knows it.
        probability: in [0, 1].
    """

    index: int
    name: str | None
    probability: float


class ImageSession(Session):
    """An opened classifier.

    Args:
        runner: of the model.
        preprocessing: of its images.
        classes: their names.
        batch_size: images that are run together.
    """

    def __init__(
        self,
        runner: Runner,
        preprocessing: PreprocessingConfig,
        classes: Classes,
        *,
        batch_size: int = 1,
    ):
        super().__init__(runner)
        self.preprocessing, self.classes, self.batch_size = preprocessing, classes, batch_size

    @overload
    def classify(self, image: ImageSource, *, top_k: int = 1) -> list[Prediction]: ...

    @overload
    def classify(
        self, image: list[Source] | tuple[Source, ...], *, top_k: int = 1
    ) -> list[list[Prediction]]: ...

    def classify(
        self, image: ImageSource | Sequence[ImageSource], *, top_k: int = 1
    ) -> list[Prediction] | list[list[Prediction]]:
        """Tells what is on an image, or on each image of a list.

        Args:
            image: a path, the bytes of an image file, an open binary file, or an array of uint8
                `[H, W, 3]`; or a list of them, which is run in batches.
            top_k: how many classes to give.

        Returns:
            The best classes, best first; of a list of images a list of them.

        Raises:
            UserError: an image cannot be used, the list is empty, or the session is closed.

        Example:
            >>> import numpy, vision
            >>> with vision.load(run_eagerly=True) as model:
            ...     best, second = model.classify(numpy.zeros((64, 64, 3), "uint8"), top_k=2)
            >>> 1 >= best.probability >= second.probability >= 0
            True
        """
        self.check_open()
        if top_k < 1:
            raise UserError.expected("top_k >= 1", top_k, "Correct it")
        if not isinstance(image, list | tuple):
            return self._classify([self._read(image)], top_k)[0]
        if not image:
            raise UserError.expected("images to classify", "an empty list", "Give at least one")
        found, ahead = [], _BATCHES_AHEAD * self.batch_size
        with contextlib.closing(in_threads(self._read, image, ahead=ahead)) as images:
            while batch := list(itertools.islice(images, self.batch_size)):
                found += self._classify(batch, top_k)
        return found

    def _read(self, source: ImageSource) -> np.ndarray:
        try:
            return read_image(source, self.preprocessing)
        except ImageError as error:
            raise UserError.expected("an image", error, "Check it") from error

    def _classify(self, images: Sequence[np.ndarray], top_k: int) -> list[list[Prediction]]:
        inputs = feed(self.pipeline, np.stack(images))
        probabilities = probabilities_of(scores_of(self.run(inputs)))
        return [
            [Prediction(int(n), self.classes.name(int(n)), float(row[n])) for n in numbers]
            for numbers, row in zip(top_classes(probabilities, top_k), probabilities, strict=True)
        ]


@takes_options(RunnerOptions)
def load(model_dir: str | Path | None = None, **options: Unpack[RunnerKeywords]) -> ImageSession:
    """Opens a vision Conformer that classifies images.

    The options have the names of the flags of `python -m vision.infer`: for example
    `quant_precision="int8_fp32"` with `calibration_data_dir=DIR` computes in 8 bits.

    Args:
        model_dir: an exported SavedModel, or a converted model; None: the bundled model, which
            tells six kinds of waste apart.
        **options: see `RunnerOptions`.

    Returns:
        A session with `classify`; close it, or use it in a `with` statement. The first call for a
        model converts it, which is said on stderr.

    Raises:
        tools.errors.UserError: a bad directory or option.

    Example:
        >>> import vision
        >>> with vision.load("exports/tiny") as model:
        ...     best = model.classify("photo.jpg", top_k=5)
        >>> len(best), best[0].probability >= best[1].probability
        (5, True)
    """
    place = BUNDLED_MODEL if model_dir is None else model_dir
    return open_session(place, from_keywords(RunnerOptions, options))


def open_session(model_dir: str | Path, options: RunnerOptions) -> ImageSession:
    """Opens a model by options; see `load`."""
    pipeline = describe(model_dir, FAMILY)
    runner = open_runner(model_dir, options, calibration_examples)
    preprocessing = PreprocessingConfig(**pipeline["preprocessing"])
    classes = classes_of(pipeline, None)
    return ImageSession(runner, preprocessing, classes, batch_size=options.batch_size)


def feed(pipeline: dict, images: np.ndarray) -> dict[str, np.ndarray]:
    """Gives `[B, H, W, 3]` the name and the layout that a model takes."""
    if pipeline["layout"] == "NCHW":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return {pipeline["input"]: images}


def scores_of(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """The scores of both heads together, `[B, V]`; an output of another name if it is alone."""
    for name in ("logits", "probabilities"):
        if name in outputs:
            return outputs[name]
    if len(outputs) != 1:
        raise UserError.expected("a model with logits", ", ".join(outputs), "Export it again")
    return next(iter(outputs.values()))


def probabilities_of(scores: np.ndarray) -> np.ndarray:
    """Softmax of scores, unless they are probabilities already."""
    if (scores >= 0).all() and np.allclose(scores.sum(axis=-1), 1.0, atol=1e-3):
        return scores
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def calibration_examples(
    pipeline: Mapping, data_dir: Path, num_samples: int, judged: bool
) -> Examples:
    """Reads images to calibrate with; see `tools.families.Family`."""
    preprocessing = PreprocessingConfig(**pipeline["preprocessing"])
    labels: Sequence[int | None]
    if judged:
        classes = Classes(pipeline["class_names"], pipeline["class_folders"])
        found = read_labelled(data_dir, classes, pipeline["num_classes"])
        paths, labels = found.paths, found.labels
    else:
        paths = _unlabelled(data_dir)
        labels = [None] * len(paths)
    batches, references = [], []
    for path, label in spread(list(zip(paths, labels, strict=True)), num_samples):
        try:
            batches.append(feed(pipeline, read_image(path, preprocessing)[None]))
        except ImageError:
            continue
        references.append(label)
    if not batches:
        raise UserError.expected(f"images in {data_dir}", "only broken ones", "Choose other data")

    def accuracy(run, numbers):
        hits = []
        for number in numbers:
            scores = scores_of(run(batches[number], "serving_default"))
            hits.append(int(scores[0].argmax()) == references[number])
        return float(np.mean(hits))

    return Examples(batches, accuracy if judged else None)


def _unlabelled(data_dir: Path) -> list[str]:
    """The images of an ImageFolder, a flat folder or a file."""
    try:
        return read_image_folder(data_dir).paths
    except UserError:
        return find_images(data_dir)
