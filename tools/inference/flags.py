"""The flags that every inference program shares, by their original names, and what they open."""

import sys
from pathlib import Path
from types import SimpleNamespace

from tools.config.command_line import CommandLine
from tools.conversion import backends
from tools.conversion.converter import ConversionRequest, convert
from tools.conversion.dim_range import parse_dim_ranges
from tools.errors import UserError
from tools.inference.runner import Runner, load


def add_inference_flags(flags: CommandLine) -> None:
    """Adds the shared flags to a program's command line."""
    flags.string(
        "native_savedmodel_dir", None, "SavedModel to run.", default_text="the bundled one"
    )
    flags.string("data_dir", None, "Corpus to recognize and score: a whole set or one split.")
    flags.integer("batch_size", 1, "Inputs run together.")
    flags.boolean(
        "run_eagerly", True, "TensorFlow's own runtime on the SavedModel; else a converted one."
    )
    flags.integer("warmup_count", 1, "Batches run before the clock starts.")
    flags.string("result_path", None, "JSON report to write, with a TSV of the texts beside it.")
    add_conversion_flags(flags)


def add_conversion_flags(flags: CommandLine) -> None:
    """Adds what a conversion depends on."""
    flags.string(
        "converted_savedmodel_dir",
        None,
        "Where the converted model is, or is to be made.",
        default_text="a folder of the user's cache",
    )
    flags.enum("backend", "auto", ("auto", *backends.NAMES), "Runtime of the converted model.")
    flags.string("quant_precision", "fp32", "Precision of the converted model.")
    flags.string(
        "dim_range",
        None,
        'Shapes that it serves: "waveforms=1:8,16000:560000".',
        default_text="batches up to 2 x --batch_size, the lengths that the model takes",
    )


def convert_as_asked(values: SimpleNamespace, native_dir: str | Path) -> dict:
    """Converts a SavedModel by the flags, unless that was done before; see `convert`."""
    if values.batch_size < 1:
        raise UserError.expected("--batch_size >= 1", values.batch_size, "Correct the flag")
    request = ConversionRequest(
        backend=values.backend,
        precision=values.quant_precision,
        batch=(1, 2 * values.batch_size),
        dim_range=parse_dim_ranges(values.dim_range) if values.dim_range else {},
    )
    return convert(native_dir, values.converted_savedmodel_dir, request)


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
