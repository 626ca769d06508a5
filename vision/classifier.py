"""Classifiers behind the flags of the programs, and their runs over image files."""

import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tools.config.command_line import CommandLine
from tools.conversion.saved_model import read_pipeline
from tools.errors import UserError
from tools.inference.flags import add_inference_flags, open_runner, restrict_devices
from tools.inference.report import Stopwatch, runner_facts
from tools.inference.runner import EagerRunner, Runner
from vision.checkpoint import adopt_recipe, load_model, named_checkpoint
from vision.classes import Classes, classes_of
from vision.config import PreprocessingConfig, add_config_flags, config_of, preprocessing_of
from vision.input_pipeline import Batches
from vision.recipe_keys import AMP_LEVELS
from vision.signatures import Signatures, pipeline_description

_NUM_LISTED = 20
_SOURCES = ("checkpoint", "native_savedmodel_dir", "onnx_path")


class Classifier(NamedTuple):
    """A model that can be run, what its images are made by, and the names of its classes."""

    runner: Runner
    preprocessing: PreprocessingConfig
    classes: Classes


def add_classifier_flags(flags: CommandLine) -> None:
    """Adds the flags of all programs that classify."""
    add_inference_flags(flags, "")
    flags.string(
        "checkpoint",
        None,
        "Weights to run in TensorFlow: .pth, .safetensors, .keras, or a checkpoint of training.",
        short_name="c",
        default_text="",
    )
    flags.string("pretrained", None, "The same.", default_text="that of the --config")
    flags.string("onnx_path", None, "ONNX file to run in ONNX Runtime.", default_text="")
    flags.string("imagenet_label_file", None, "Names of the classes.", default_text="the model's")
    about = "Of a checkpoint. O0: float32, bfloat16, else float16."
    flags.enum("amp_level", None, sorted(AMP_LEVELS), about, default_text="O0")
    devices, about = ("GPU", "CPU"), "GPU where there is one."
    flags.enum("device_target", None, devices, about, short_name="m", default_text="GPU")
    flags.integer("num_parallel_workers", 0, "Images decoded at once.", default_text="all cores")
    flags.integer("prefetch", 0, "Images read ahead.", default_text="four batches")
    add_config_flags(flags)


def open_classifier(values: SimpleNamespace, signature: str = "serving_default") -> Classifier:
    """Opens the one model that the flags name.

    Of a checkpoint the config tells architecture and preprocessing; exported models know both, and
    flags of the preprocessing win.

    Args:
        values: of `add_classifier_flags`.
        signature: that is going to be run of a checkpoint.

    Raises:
        UserError: none, several or a bad one.
    """
    exported = values.native_savedmodel_dir or values.onnx_path
    if values.checkpoint or values.pretrained or not exported:
        values.checkpoint = named_checkpoint(values)
    named = [name for name in _SOURCES if getattr(values, name)]
    if len(named) != 1:
        raise UserError.expected(
            f"exactly one of {', '.join(f'--{name}' for name in _SOURCES)}",
            " and ".join(f"--{name}" for name in named) or "none",
            "Name one model",
        )
    if min(values.batch_size, values.warmup_count + 1) < 1:
        raise UserError.expected(
            "--batch_size >= 1 and --warmup_count >= 0",
            f"{values.batch_size} and {values.warmup_count}",
            "Correct the flag",
        )
    if min(values.num_parallel_workers, values.prefetch) < 0:
        raise UserError.expected(
            "--num_parallel_workers and --prefetch >= 0",
            f"{values.num_parallel_workers} and {values.prefetch}",
            "Correct the flag",
        )
    if values.device_target == "CPU":
        values.visible_devices = "-1"
    restrict_devices(values)
    if values.native_savedmodel_dir:
        _check_family(read_pipeline(values.native_savedmodel_dir), values)
        runner = open_runner(values, values.native_savedmodel_dir)
    else:
        runner = _open_file(values, signature)
    pipeline = runner.pipeline
    preprocessing = preprocessing_of(pipeline["preprocessing"], values)
    side = pipeline["preprocessing"]["image_size"]
    if preprocessing.image_size != side:
        raise UserError.expected(
            f"--image_size {side}, the model's", preprocessing.image_size, "Export another model"
        )
    return Classifier(runner, preprocessing, classes_of(pipeline, values.imagenet_label_file))


def _check_family(pipeline: dict, values: SimpleNamespace) -> None:
    if pipeline.get("family") != "vision":
        raise UserError.expected(
            "a vision model",
            f"{values.native_savedmodel_dir}: {pipeline.get('family')}",
            "Name one",
        )


def _open_file(values: SimpleNamespace, signature: str) -> Runner:
    """A checkpoint in TensorFlow or an ONNX file; neither is converted."""
    if values.quant_precision != "fp32" or values.converted_savedmodel_dir:
        raise UserError.expected(
            "--native_savedmodel_dir for a converted model",
            "a checkpoint or an ONNX file",
            "Export a SavedModel with `python -m vision.export`",
        )
    adopt_recipe(values, values.checkpoint)
    config = config_of(values)
    if values.onnx_path:
        from vision.onnx_runner import OnnxRunner

        return OnnxRunner(values.onnx_path, config)
    model = load_model(config.model, values.checkpoint, AMP_LEVELS[values.amp_level or "O0"])
    functions = Signatures(model, config.preprocessing, Classes()).concrete([signature])
    return EagerRunner(functions, pipeline_description(config, model, Classes()))


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


class Classification:
    """A run over image files; iterating gives indices and outputs of each batch.

    Attributes:
        batches: the images.
        watch: times of the model.
        skipped: `(path, reason)` of the images that could not be read, when all was iterated.

    Args:
        classifier: the model.
        paths: of the images.
        values: of `add_classifier_flags`.
        signature: of the model.
    """

    def __init__(
        self,
        classifier: Classifier,
        paths: Sequence[str],
        values: SimpleNamespace,
        signature: str = "serving_default",
    ):
        self._classifier, self._paths, self._values = classifier, paths, values
        self._signature = signature
        self.batches = Batches(
            paths,
            classifier.preprocessing,
            max(1, min(values.batch_size, len(paths))),
            values.num_parallel_workers,
            values.prefetch,
        )
        self.watch = Stopwatch()

    def __iter__(self) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """Runs the images that can be read."""
        runner, count = self._classifier.runner, self._values.warmup_count
        few = len(self._paths) <= self._values.batch_size
        self.watch = Stopwatch()
        with tqdm(
            total=len(self._paths), unit="image", file=sys.stderr, delay=2, disable=few
        ) as bar:
            for indices, images in self.batches:
                inputs = feed(runner.pipeline, images)
                with self.watch.excluded():
                    for _ in range(count):
                        runner.run(inputs, self._signature)
                count = 0
                with self.watch.running():
                    outputs = runner.run(inputs, self._signature)
                yield indices, outputs
                bar.update(indices[-1] + 1 - bar.n)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """See the class."""
        return [(self._paths[i], reason) for i, reason in sorted(self.batches.reasons.items())]

    def facts(self, num_images: int) -> dict:
        """What a report says of speed and runner."""
        speed = self.watch.speed(num_images)
        waiting = self.batches.waiting_seconds
        return {
            **speed,
            "decode_wait_share": min(1.0, waiting / speed["end_to_end_seconds"]),
            "num_images": num_images,
            "num_skipped": len(self.batches.reasons),
            "batch_size": self._values.batch_size,
            **runner_facts(self._classifier.runner),
        }


def show_speed(facts: dict, skipped: Sequence[tuple[str, str]]) -> None:
    """Writes speed and skipped images to stderr, for people."""
    print(
        f"{facts['num_images']} images at batch size {facts['batch_size']} ({facts['mode']}, "
        f"{facts['backend']}, {facts['precision']}): {facts['samples_per_second']:.2f} images/s "
        f"({facts['end_to_end_samples_per_second']:.2f} with reading, "
        f"{facts['decode_wait_share']:.1%} of the time waiting for it); "
        "loading and warm-up excluded",
        file=sys.stderr,
    )
    for path, reason in skipped[:_NUM_LISTED]:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if len(skipped) > _NUM_LISTED:
        print(
            f"skipped {len(skipped) - _NUM_LISTED} more; --result_path lists them all",
            file=sys.stderr,
        )
