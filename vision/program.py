"""Classifiers behind the flags of the programs, and their runs over image files."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from tools.config.command_line import CommandLine
from tools.config.making_options import from_flags
from tools.conversion.pipeline import describe
from tools.errors import UserError
from tools.files import one_line
from tools.inference.flags import add_inference_flags
from tools.inference.opening import open_runner, restrict_devices
from tools.inference.options import DataOptions, RunnerOptions
from tools.inference.report import Stopwatch, runner_facts
from tools.inference.runner import Runner
from vision.classes import Classes, classes_of
from vision.config import add_config_flags, config_of, preprocessing_of
from vision.input_pipeline import Batches
from vision.recipe import named_checkpoint, with_recipe
from vision.recipe_keys import AMP_LEVELS
from vision.session import FAMILY, ImageSession, calibration_examples, feed

_NUM_LISTED = 20
_SOURCES = ("checkpoint", "native_savedmodel_dir", "onnx_path")


@dataclass(frozen=True, slots=True)
class ImageDataOptions(DataOptions):
    """Which images a program runs.

    Attributes:
        num_parallel_workers: images decoded at once; 0: one for each core.
        prefetch: images read ahead; 0: four batches.
    """

    num_parallel_workers: int = 0
    prefetch: int = 0


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


def data_options(values: SimpleNamespace, paths: Sequence[str] = ()) -> ImageDataOptions:
    """Makes the options of the images from the flags of `add_classifier_flags`.

    Raises:
        UserError: one is out of its range.
    """
    data = from_flags(ImageDataOptions, values, paths=tuple(paths))
    if min(data.batch_size, data.warmup_count + 1) < 1:
        raise UserError.expected(
            "--batch_size >= 1 and --warmup_count >= 0",
            f"{data.batch_size} and {data.warmup_count}",
            "Correct the flag",
        )
    if min(data.num_parallel_workers, data.prefetch) < 0:
        raise UserError.expected(
            "--num_parallel_workers and --prefetch >= 0",
            f"{data.num_parallel_workers} and {data.prefetch}",
            "Correct the flag",
        )
    return data


def open_classifier(values: SimpleNamespace, signature: str = "serving_default") -> ImageSession:
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
    checkpoint = values.checkpoint
    if checkpoint or values.pretrained or not exported:
        checkpoint = named_checkpoint(values)
    sources = {name: getattr(values, name) for name in _SOURCES} | {"checkpoint": checkpoint}
    named = [name for name, value in sources.items() if value]
    if len(named) != 1:
        raise UserError.expected(
            f"exactly one of {', '.join(f'--{name}' for name in _SOURCES)}",
            " and ".join(f"--{name}" for name in named) or "none",
            "Name one model",
        )
    data_options(values)
    devices = "-1" if values.device_target == "CPU" else values.visible_devices
    options = from_flags(RunnerOptions, values, visible_devices=devices)
    label_file = values.imagenet_label_file
    if values.native_savedmodel_dir:
        pipeline = describe(values.native_savedmodel_dir)
        _check_family(pipeline, values)
        runner = open_runner(values.native_savedmodel_dir, options, calibration_examples)
    else:
        restrict_devices(devices)
        runner, label_file = _open_file(values, checkpoint, signature)
    pipeline = runner.pipeline
    preprocessing = preprocessing_of(pipeline["preprocessing"], values)
    side = pipeline["preprocessing"]["image_size"]
    if preprocessing.image_size != side:
        raise UserError.expected(
            f"--image_size {side}, the model's", preprocessing.image_size, "Export another model"
        )
    classes = classes_of(pipeline, label_file)
    return ImageSession(runner, preprocessing, classes, batch_size=options.batch_size)


def _check_family(pipeline: Mapping, values: SimpleNamespace) -> None:
    if pipeline.get("family") != FAMILY:
        raise UserError.expected(
            "a vision model",
            f"{values.native_savedmodel_dir}: {pipeline.get('family')}",
            "Name one",
        )


def _open_file(
    values: SimpleNamespace, checkpoint: str, signature: str
) -> tuple[Runner, str | None]:
    """A checkpoint in TensorFlow or an ONNX file, and its label file; neither is converted."""
    if values.quant_precision != "fp32" or values.converted_savedmodel_dir:
        raise UserError.expected(
            "--native_savedmodel_dir for a converted model",
            "a checkpoint or an ONNX file",
            "Export a SavedModel with `python -m vision.export`",
        )
    values = with_recipe(values, checkpoint)
    config = config_of(values)
    if values.onnx_path:
        from vision.onnx_runner import OnnxRunner

        return OnnxRunner(values.onnx_path, config), values.imagenet_label_file
    # TensorFlow is imported where a checkpoint is run; a converted model starts without it.
    from tools.inference.eager import EagerRunner
    from vision.checkpoint import load_model
    from vision.signatures import Signatures, pipeline_description

    model = load_model(config.model, checkpoint, AMP_LEVELS[values.amp_level or "O0"])
    functions = Signatures(model, config.preprocessing, Classes()).concrete([signature])
    runner = EagerRunner(functions, pipeline_description(config, model, Classes()))
    return runner, values.imagenet_label_file


class Classification:
    """A run over image files; iterating gives indices and outputs of each batch.

    Attributes:
        batches: the images.
        watch: times of the model.
        skipped: `(path, reason)` of the images that could not be read, when all was iterated.

    Args:
        session: the model.
        paths: of the images.
        data: how they are read and run.
        signature: of the model.
    """

    def __init__(
        self,
        session: ImageSession,
        paths: Sequence[str],
        data: ImageDataOptions,
        signature: str = "serving_default",
    ):
        self._session, self._paths, self._data = session, paths, data
        self._signature = signature
        self.batches = Batches(
            paths,
            session.preprocessing,
            max(1, min(data.batch_size, len(paths))),
            data.num_parallel_workers,
            prefetch=data.prefetch,
        )
        self.watch = Stopwatch()

    def __iter__(self) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """Runs the images that can be read."""
        session, count = self._session, self._data.warmup_count
        few = len(self._paths) <= self._data.batch_size
        self.watch = Stopwatch()
        with tqdm(
            total=len(self._paths), unit="image", file=sys.stderr, delay=2, disable=few
        ) as bar:
            for indices, images in self.batches:
                inputs = feed(session.pipeline, images)
                with self.watch.excluded():
                    for _ in range(count):
                        session.run(inputs, self._signature)
                count = 0
                with self.watch.running():
                    outputs = session.run(inputs, self._signature)
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
            "batch_size": self._data.batch_size,
            **runner_facts(self._session.runner),
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
        print(f"skipped {one_line(path)}: {reason}", file=sys.stderr)
    if len(skipped) > _NUM_LISTED:
        print(
            f"skipped {len(skipped) - _NUM_LISTED} more; --result_path lists them all",
            file=sys.stderr,
        )
