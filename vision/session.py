"""Opens exported vision Conformers for classification in Python, in programs and in servers."""

import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, Unpack, overload

import numpy as np

from tools.config.making_options import from_keywords, takes_options
from tools.config.values import argument
from tools.conversion.pipeline import describe
from tools.conversion.protocol import Examples
from tools.errors import UserError
from tools.inference.opening import open_runner
from tools.inference.options import OF_SOUNDS, RunnerKeywords, RunnerOptions
from tools.inference.pretrained import exported_model
from tools.inference.runner import Runner
from tools.inference.selection import spread
from tools.inference.session import Session
from tools.threads import in_threads, of_list
from vision.classes import Classes, classes_of, read_labelled, top_classes
from vision.config import PreprocessingConfig
from vision.images import ImageError, read_image
from vision.input_pipeline import find_images, read_image_folder

FAMILY = "vision"
BUNDLED_MODEL = Path(__file__).resolve().parent / "pretrained" / "photos"
# A path, the bytes of an image file, an open binary file, or an array [H, W, 3] uint8.
ImageSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray
Source = TypeVar("Source", bound=ImageSource)
_BATCHES_AHEAD = 2


class Prediction(NamedTuple):
    """A predicted class.

    Attributes:
        index: number of the class.
        name: name of the class; None if the model has no class names.
        probability: probability of the class, 0 to 1.
    """

    index: int
    name: str | None
    probability: float


class ImageSession(Session):
    """An opened classifier.

    Args:
        runner: runs the signatures of the model.
        preprocessing: preprocessing of images.
        classes: names of the classes.
        batch_size: number of images that are run together.
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
        """Returns the most probable classes of an image, or of each image in a list.

        Args:
            image: a path, the bytes of an image file, an open binary file, or an array
                `[H, W, 3]` uint8; or a list of these, which is run in batches.
            top_k: number of classes to return for each image.

        Returns:
            Predictions in order of decreasing probability; for a list of images a list of them.

        Raises:
            UserError: an image cannot be read, the list is empty, or the session is closed.

        Example:
            >>> import numpy, vision
            >>> with vision.load(run_eagerly=True) as model:
            ...     best, second = model.classify(numpy.zeros((64, 64, 3), "uint8"), top_k=2)
            >>> 1 >= best.probability >= second.probability >= 0
            True
        """
        self.check_open()
        top_k = argument("top_k", top_k, int)
        if top_k < 1:
            raise UserError.expected("top_k >= 1", top_k, "Correct top_k")
        if not isinstance(image, list | tuple):
            return self.classify_read([self.read(image)], top_k=top_k)[0]
        if not image:
            raise UserError.expected(
                "images to classify", "an empty list", "Give at least one image"
            )
        found, ahead = [], _BATCHES_AHEAD * self.batch_size
        with contextlib.closing(in_threads(self.read, image, ahead=ahead)) as loaded:
            images = of_list("Image", loaded)
            while batch := list(itertools.islice(images, self.batch_size)):
                found += self.classify_read(batch, top_k=top_k)
        return found

    def read(self, source: ImageSource) -> np.ndarray:
        """Reads and preprocesses an image; returns the model's input `[S, S, 3]` float32.

        Raises:
            UserError: the image cannot be read.
        """
        try:
            return read_image(source, self.preprocessing)
        except ImageError as error:
            raise UserError.expected("an image", error, "Check the image") from error

    def classify_read(
        self, images: Sequence[np.ndarray], *, top_k: int = 1
    ) -> list[list[Prediction]]:
        """Classifies images from `read` in one batch; see `classify`."""
        inputs = feed(self.pipeline, np.stack(images))
        probabilities = probabilities_of(scores_of(self.run(inputs)))
        return [
            [Prediction(int(n), self.classes.name(int(n)), float(row[n])) for n in numbers]
            for numbers, row in zip(top_classes(probabilities, top_k), probabilities, strict=True)
        ]


@takes_options(RunnerOptions, OF_SOUNDS)
def load(model_dir: str | Path | None = None, **options: Unpack[RunnerKeywords]) -> ImageSession:
    """Opens a vision Conformer that classifies images.

    The options have the same names as the flags of `python -m vision.infer`. For example,
    `quant_precision="int8_fp32"` with `calibration_data_dir=DIR` runs the model in 8-bit integers.

    Args:
        model_dir: directory of an exported SavedModel or of a converted model; or weights, which
            are exported into the user's cache first: a training run, a checkpoint, a `.keras` file
            or, for Conformer-tiny, a `.pth` or `.safetensors` file, on this machine or as
            `hf:owner/name[@revision]/path`. None opens the bundled model, which recognizes six
            kinds of waste.
        **options: see `tools.inference.options.RunnerOptions`, without the options for sounds.

    Returns:
        A session whose `classify` returns the classes of images. Close it after use, or use it in
        a `with` statement. The first call for a SavedModel converts it, and a message on stderr
        announces this.

    Raises:
        tools.errors.UserError: the directory holds no such model, or an option is invalid.

    Example:
        >>> import vision
        >>> with vision.load("exports/tiny") as model:
        ...     best = model.classify("photo.jpg", top_k=5)
        >>> len(best), best[0].probability >= best[1].probability
        (5, True)
    """
    place = exported(BUNDLED_MODEL if model_dir is None else model_dir)
    return open_session(place, from_keywords(RunnerOptions, options, OF_SOUNDS))


def exported(source: str | Path) -> Path:
    """Returns the directory of an exported model; see `tools.inference.pretrained`.

    Args:
        source: see `load`.
    """
    import vision

    # Imports TensorFlow, but only if it is called.
    return exported_model(source, FAMILY, lambda *paths: vision.export_source(*paths))


def open_session(model_dir: str | Path, options: RunnerOptions) -> ImageSession:
    """Opens a model for classification; `load` is the same function with options as keywords.

    Args:
        model_dir: directory of an exported SavedModel or of a converted model.
        options: runtime, precision and batch size.

    Raises:
        UserError: the directory holds no such model, or an option is invalid.
    """
    pipeline = describe(model_dir, FAMILY)
    runner = open_runner(model_dir, options, calibration_examples)
    preprocessing = PreprocessingConfig(**pipeline["preprocessing"])
    classes = classes_of(pipeline, None)
    return ImageSession(runner, preprocessing, classes, batch_size=options.batch_size)


def feed(pipeline: dict, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the input of a model: images by input name, in the layout of the model.

    Args:
        pipeline: content of the model's `pipeline.json`.
        images: `[B, H, W, 3]` float32.
    """
    if pipeline["layout"] == "NCHW":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return {pipeline["input"]: images}


def scores_of(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the scores `[B, V]` among the outputs of a model.

    These are the logits (sum of both heads) or probabilities, or the only output of another name.

    Raises:
        UserError: there is no such output, or a score is not finite.
    """
    known = [name for name in ("logits", "probabilities") if name in outputs]
    if not known and len(outputs) != 1:
        raise UserError.expected("a model with logits", ", ".join(outputs), "Export it again")
    scores = outputs[known[0] if known else next(iter(outputs))]
    if not np.isfinite(scores).all():
        raise UserError.expected(
            "finite scores of the classes", "NaN or infinity", "Run the model in float32"
        )
    return scores


def probabilities_of(scores: np.ndarray) -> np.ndarray:
    """Returns the softmax of scores `[B, V]`; scores that are probabilities are not changed."""
    if (scores >= 0).all() and np.allclose(scores.sum(axis=-1), 1.0, atol=1e-3):
        return scores
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def calibration_examples(
    pipeline: Mapping, data_dir: Path, num_samples: int, judged: bool
) -> Examples:
    """Reads images for calibration of a quantized model; see `tools.families.Family`.

    Args:
        pipeline: content of the model's `pipeline.json`.
        data_dir: ImageFolder, folder of images, or single image.
        num_samples: number of images to read, spread over the whole data set.
        judged: whether the accuracy on these images will be measured; it requires an ImageFolder.

    Raises:
        UserError: the data set has no images that can be read.
    """
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
        raise UserError.expected(
            f"images in {data_dir}", "only unreadable images", "Select other data"
        )

    def accuracy(run, numbers):
        hits = []
        for number in numbers:
            scores = scores_of(run(batches[number], "serving_default"))
            hits.append(int(scores[0].argmax()) == references[number])
        return float(np.mean(hits))

    return Examples(batches, accuracy if judged else None)


def _unlabelled(data_dir: Path) -> list[str]:
    """Returns the paths of the images in an ImageFolder or in a folder, or of a single image."""
    try:
        return read_image_folder(data_dir).paths
    except UserError:
        return find_images(data_dir).paths
