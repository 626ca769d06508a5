"""The flags that every inference program shares, by their original names, and what they open."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from tools.config.command_line import CommandLine
from tools.conversion import backends
from tools.conversion.converter import convert
from tools.conversion.dim_range import DimRanges, parse_dim_ranges
from tools.conversion.quantization import (
    ALGORITHMS,
    GRANULARITIES,
    TYPES,
    Calibration,
    Quantization,
)
from tools.conversion.request import OPT_CONFIG, ConversionRequest
from tools.conversion.saved_model import read_pipeline
from tools.errors import UserError
from tools.inference.runner import Runner, load

FAMILIES = ("conformer", "vision", "wav2vec2")


def add_inference_flags(flags: CommandLine, default_model: str = "the bundled one") -> None:
    """Adds the shared flags to a program's command line.

    Args:
        flags: of the program.
        default_model: what --help calls the model that runs when none is named.
    """
    flags.string("native_savedmodel_dir", None, "SavedModel to run.", default_text=default_model)
    flags.string("data_dir", None, "Data set to run and score: a whole set or one split.")
    flags.integer("batch_size", 1, "Inputs run together.")
    flags.number("data_ratio", 1.0, "Share of the data set to use, spread over the whole.")
    flags.boolean(
        "run_eagerly", False, "TensorFlow's own runtime on the SavedModel; else a converted one."
    )
    flags.integer("warmup_count", 1, "Batches run before the clock starts.")
    flags.string("result_path", None, "JSON report to write, with a TSV of the answers beside it.")
    add_conversion_flags(flags)


def add_conversion_flags(flags: CommandLine) -> None:
    """Adds what a conversion depends on."""
    flags.string(
        "visible_devices", None, "GPUs that may be used: 0,1; none: -1.", default_text="all"
    )
    flags.string(
        "converted_savedmodel_dir",
        None,
        "Where the converted model is, or is to be made.",
        default_text="a folder of the user's cache",
    )
    flags.enum("backend", "auto", ("auto", *backends.NAMES), "Runtime of the converted model.")
    flags.string(
        "quant_precision", "fp32", "Its precision: fp32, fp16, bf16, int8_fp32, int8_fp16."
    )
    flags.boolean(
        "enable_dim_range", True, "Serves a range of shapes; else one shape, padded up to."
    )
    flags.string(
        "dim_range",
        None,
        'Shapes that it serves: "waveforms=1:8,16000:560000".',
        default_text="batches up to 2 x --batch_size, the lengths that the model takes",
    )
    flags.number(
        "max_seconds",
        None,
        "Refuses longer sounds; without --enable_dim_range all are padded up to it.",
        default_text="the model's",
    )
    flags.string("calibration_data_dir", None, "Data to quantize with.", default_text="--data_dir")
    flags.integer("calibration_samples", 128, "How many of them, spread over the whole.")
    flags.enum("quantize_algo", "linear", ALGORITHMS, "Ranges: extremes, or the least error.")
    flags.enum("quantize_type", "symm", TYPES, "Zero points of activations.")
    flags.enum("quantize_granularity", "per_tensor", GRANULARITIES, "Scales of weights.")
    about = (
        'Layers not to quantize: "block_0/attention,subsampling"; "-head": quantized all the same.'
    )
    flags.string("keep_in_float", "", about)
    flags.number(
        "max_accuracy_drop",
        None,
        "Puts layers back to float until the accuracy on the calibration data holds.",
        default_text="no limit",
    )
    flags.string(
        "opt_config", ",".join(OPT_CONFIG), "Optional rewrites of the graph, with commas, or none."
    )
    flags.integer("minimum_segment_size", 3, "Fewest operators worth an accelerator.")


def convert_as_asked(values: SimpleNamespace, native_dir: str | Path) -> dict:
    """Converts a SavedModel by the flags, unless that was done before; see `convert`."""
    pipeline = read_pipeline(native_dir)
    drop = values.max_accuracy_drop
    for flag, valid in (
        ("batch_size >= 1", values.batch_size >= 1),
        ("calibration_samples >= 1", values.calibration_samples >= 1),
        ("minimum_segment_size >= 1", values.minimum_segment_size >= 1),
        ("max_accuracy_drop between 0 and 1", drop is None or 0 <= drop <= 1),
    ):
        if not valid:
            name = flag.split()[0]
            raise UserError.expected(f"--{flag}", getattr(values, name), f"Correct --{name}")
    ranges = _dim_range(values, pipeline)
    batch = (1, 2 * values.batch_size) if values.enable_dim_range else (values.batch_size,) * 2
    request = ConversionRequest(
        backend=values.backend,
        precision=values.quant_precision,
        # One conversion serves every --batch_size within the same ranges.
        batch=next((sizes[0] for sizes in ranges.values()), batch),
        dim_range=ranges,
        opt_config=() if values.opt_config == "none" else _words(values.opt_config),
        minimum_segment_size=values.minimum_segment_size,
        quantization=Quantization(
            algo=values.quantize_algo,
            type=values.quantize_type,
            granularity=values.quantize_granularity,
            keep_in_float=_words(values.keep_in_float),
            max_accuracy_drop=values.max_accuracy_drop,
        ),
    )
    calibration = _calibration(values, pipeline)
    return convert(native_dir, values.converted_savedmodel_dir, request, calibration)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _dim_range(values: SimpleNamespace, pipeline: dict) -> DimRanges:
    """The ranges that were asked for; those of one shape are single sizes."""
    if values.dim_range and not values.enable_dim_range:
        raise UserError.expected(
            "either --dim_range or --enable_dim_range=0", "both", "Leave one of them out"
        )
    if values.enable_dim_range:
        return parse_dim_ranges(values.dim_range) if values.dim_range else {}
    fixed = {}
    for conversion in pipeline["convert"].values():
        for tensor, ranges in conversion["dim_range"].items():
            sizes = [high for _, high in ranges]
            if tensor == "waveforms" and values.max_seconds is not None:
                samples = round(values.max_seconds * pipeline["sample_rate_hz"])
                sizes = [max(ranges[0][0], min(samples, ranges[0][1]))]
            fixed[tensor] = tuple((size, size) for size in (values.batch_size, *sizes))
    return fixed


def _calibration(values: SimpleNamespace, pipeline: dict) -> Calibration | None:
    """The data to quantize with, read by the family's own preprocessing."""
    own, data_dir = values.calibration_data_dir, getattr(values, "data_dir", None)
    if not (own or data_dir):
        return None
    directory = Path(own or data_dir).resolve()

    def read():
        if not own:
            print(
                f"no --calibration_data_dir: calibrating with --data_dir {data_dir}",
                file=sys.stderr,
            )
        module = family(pipeline)
        judged = values.max_accuracy_drop is not None
        return module.examples(pipeline, directory, values.calibration_samples, judged)

    return Calibration(str(directory), values.calibration_samples, bool(own), read)


def family(pipeline: dict):
    """The program `infer` of the family that exported a model.

    It has `examples(pipeline, data_dir, num_samples, judged) -> Examples`: data as inference
    preprocesses them, one sample in a batch, with references where they are to be `judged`.
    """
    name = pipeline.get("family")
    if name not in FAMILIES:
        raise UserError.expected(
            f"a model of {', '.join(FAMILIES)}", name, "Export the model again"
        )
    return importlib.import_module(f"{name}.infer")


def restrict_devices(values: SimpleNamespace) -> None:
    """Hides the GPUs that `--visible_devices` does not name; before any of them is used."""
    if values.visible_devices is None:
        return
    numbers = values.visible_devices.replace(" ", "").split(",")
    if not all(number.lstrip("-").isdigit() for number in numbers):
        raise UserError.expected(
            "--visible_devices like 0,1, or -1", values.visible_devices, "Correct the flag"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(numbers)


def share(items: Sequence, ratio: float) -> list:
    """The share of a data set that `--data_ratio` asks for, spread over the whole."""
    if not 0 < ratio <= 1:
        raise UserError.expected("--data_ratio above 0 and up to 1", ratio, "Correct the flag")
    return spread(items, max(1, round(ratio * len(items))))


def spread(items: Sequence, count: int) -> list:
    """At most `count` items at equal distances."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def open_runner(values: SimpleNamespace, native_dir: str | Path) -> Runner:
    """Opens the runner that the flags ask for, converting the SavedModel where that is due."""
    if values.run_eagerly:
        return load(native_dir)
    manifest = convert_as_asked(values, native_dir)
    if not manifest["reused"]:
        print(
            f"converted {native_dir} for {manifest['request']['backend']} in "
            f"{manifest['seconds']:.1f} s: {manifest['directory']}",
            file=sys.stderr,
        )
    return load(manifest["directory"])
