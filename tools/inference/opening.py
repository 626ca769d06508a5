"""Opens exported models, and converts them first if necessary."""

import itertools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tools.conversion import backends
from tools.conversion.artifact import is_artifact, read_manifest
from tools.conversion.choice import choose_backend
from tools.conversion.converter import check_target, convert, open_converted, say_converted
from tools.conversion.dim_range import parse_dim_ranges
from tools.conversion.loaded_model import LoadedModel
from tools.conversion.pipeline import POLICIES, is_onnx, precision_of, read_pipeline
from tools.conversion.protocol import Calibration, Examples
from tools.conversion.request import ConversionRequest
from tools.errors import UserError
from tools.inference.options import ConversionOptions, RunnerOptions
from tools.inference.runner import JitRunner, Runner, load

# `(pipeline, data_dir, num_samples, judged) -> Examples`: samples with the preprocessing of
# inference, in batches of one. If `judged` is true, they come with references, for the accuracy.
ReadExamples = Callable[[dict, Path, int, bool], Examples]


def open_runner(
    model_dir: str | Path, options: RunnerOptions, read_examples: ReadExamples
) -> Runner:
    """Opens a model. Converts a SavedModel first, unless it runs eagerly or was converted before.

    Args:
        model_dir: directory of a SavedModel or of a converted model.
        options: options of the runtime and of the conversion.
        read_examples: function of the family that reads data for calibration.

    Raises:
        UserError: the model, an option or a directory cannot be used.
    """
    restrict_devices(options.visible_devices)
    if options.batch_size < 1:
        raise UserError.expected("--batch_size >= 1", options.batch_size, "Correct --batch_size")
    execution = options.execution
    if is_artifact(model_dir):
        _check_converted(model_dir, options)
        return load(model_dir, execution)
    if options.run_eagerly:
        _check_eager(model_dir, options.quant_precision)
        return load(model_dir, execution)
    loaded, request, calibration = _conversion(model_dir, options, read_examples)
    place = options.converted_savedmodel_dir
    artifact, manifest = open_converted(loaded, place, request, calibration, execution=execution)
    say_converted(model_dir, [manifest])
    return JitRunner(artifact)


def _check_converted(model_dir: str | Path, options: RunnerOptions) -> None:
    """Checks that no option asks for another conversion of a model that is converted already."""
    defaults, manifest = RunnerOptions(), read_manifest(Path(model_dir)) or {}
    own = {"quant_precision": manifest.get("request", {}).get("precision")}
    fixed = ("run_eagerly", "backend", "quant_precision", "dim_range", "converted_savedmodel_dir")
    for name in fixed:
        if getattr(options, name) not in (getattr(defaults, name), own.get(name)):
            raise UserError.expected(
                f"a SavedModel with --{name}",
                f"{model_dir}, which is converted already",
                f"Name the SavedModel that it was made of, or leave --{name} out",
            )


def _check_eager(model_dir: str | Path, asked: str | None) -> None:
    """Checks that a SavedModel computes in the precision that the options ask for."""
    own = precision_of(read_pipeline(model_dir))
    if asked not in (None, own):
        export = f"or export the model with --precision={asked}"
        convert = "or leave --run_eagerly out to convert the model"
        raise UserError.expected(
            f"--quant_precision={own} with --run_eagerly, the precision of {model_dir}",
            asked,
            f"Use it, {export if asked in POLICIES else convert}",
        )


def longest_seconds(
    model_dir: str | Path, pipeline: Mapping, options: RunnerOptions
) -> float | None:
    """Returns the length of the longest sound for one run of a model, without opening it.

    A converted model accepts the lengths of its dim range. A SavedModel that runs eagerly accepts
    all lengths.

    Args:
        model_dir: directory of a SavedModel or of a converted model.
        pipeline: content of the model's `pipeline.json`.
        options: options of the runtime and of the conversion.

    Returns:
        The length in seconds, or None without a limit.

    Raises:
        UserError: `dim_range` cannot be read.
    """
    tensor, rate_hz = "waveforms", pipeline["sample_rate_hz"]
    manifest = read_manifest(Path(model_dir))
    if manifest is not None:  # converted
        signatures = manifest.get("signatures", {}).values()
        inputs = itertools.chain(*(signature.get("inputs", ()) for signature in signatures))
        sizes = next((shape[1:] for name, _, shape in inputs if name == tensor), ())
    elif options.run_eagerly:
        return None
    else:
        asked = parse_dim_ranges(options.dim_range) if options.dim_range else {}
        ranges = [conversion["dim_range"] for conversion in pipeline["convert"].values()]
        known = next((found[tensor] for found in ranges if tensor in found), ())
        sizes = asked[tensor][1:] if tensor in asked else known
    if not sizes:
        return None
    longest = float(max(np.ravel(sizes[0]))) / rate_hz
    if manifest is None and not options.enable_dim_range and options.max_seconds is not None:
        longest = min(longest, options.max_seconds)  # all sounds are padded to this length
    return longest


def converted(
    native_dir: str | Path, options: ConversionOptions, read_examples: ReadExamples
) -> dict:
    """Converts a SavedModel, unless the same conversion exists already.

    Args:
        native_dir: directory of the SavedModel.
        options: options of the conversion.
        read_examples: function of the family that reads data for calibration.

    Returns:
        The manifest; see `tools.conversion.converter.convert`.

    Raises:
        UserError: the model, an option or a directory cannot be used.
    """
    loaded, request, calibration = _conversion(native_dir, options, read_examples)
    place = options.converted_savedmodel_dir
    return convert(native_dir, place, request, calibration, loaded=loaded)


def _conversion(
    native_dir: str | Path, options: ConversionOptions, read_examples: ReadExamples
) -> tuple[LoadedModel, ConversionRequest, Calibration | None]:
    """Returns the model, the request and the calibration; chooses a runtime for `auto`."""
    pipeline = read_pipeline(native_dir)
    own = precision_of(pipeline)
    if own != "fp32":
        raise UserError.expected(
            "a SavedModel in fp32 to convert",
            f"{native_dir} in {own}",
            "Run it with --run_eagerly, or export it with --precision=fp32",
        )
    request = options.request(pipeline)
    if options.converted_savedmodel_dir is not None:
        check_target(options.converted_savedmodel_dir)
    # XLA runs in TensorFlow, whose threads can be set only before it loads a model.
    threads = options.execution.threads if backends.choose(request.backend) == "xla" else None
    loaded = LoadedModel(native_dir, threads)
    if request.backend == "auto":
        place = options.converted_savedmodel_dir
        backend = choose_backend(
            loaded, request, options.batch_size, options.execution, converted_dir=place
        )
        request = replace(request, backend=backend)
    return loaded, request, _calibration(options, pipeline, read_examples)


def _calibration(
    options: ConversionOptions, pipeline: dict, read_examples: ReadExamples
) -> Calibration | None:
    """Returns the calibration data of the options, or None without data."""
    own, data_dir = options.calibration_data_dir, options.data_dir
    if not (own or data_dir):
        return None
    directory = Path(own or data_dir).resolve()

    def read():
        if not own:
            print(
                f"no --calibration_data_dir: calibrating with --data_dir {data_dir}",
                file=sys.stderr,
            )
        judged = options.max_accuracy_drop is not None
        return read_examples(pipeline, directory, options.calibration_samples, judged)

    return Calibration(str(directory), options.calibration_samples, bool(own), read)


def say_assumptions(model: str | Path) -> None:
    """Prints what is assumed about an ONNX file without a description; else prints nothing."""
    if not is_onnx(model):
        return
    from tools.conversion.onnx_file import assumptions

    line = assumptions(model, read_pipeline(model))
    if line:
        print(line, file=sys.stderr)


def restrict_devices(visible_devices: str | None) -> None:
    """Hides GPUs from all runtimes. Must be called before a runtime uses a GPU.

    Args:
        visible_devices: numbers of the GPUs to use, separated by commas. `-1` hides all GPUs, None
            changes nothing.

    Raises:
        UserError: the text has another form.
    """
    if visible_devices is None:
        return
    numbers = str(visible_devices).replace(" ", "").split(",")
    if not all(number.lstrip("-").isdigit() for number in numbers):
        raise UserError.expected(
            "--visible_devices like 0,1, or -1", visible_devices, "Correct the flag"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(numbers)
