"""Flags and output that the benchmarks with a peer share."""

import importlib.metadata
import platform
from collections.abc import Mapping
from types import SimpleNamespace

from tools.amounts import counted
from tools.benchmark.sides import PEER, export_name
from tools.benchmark.turns import batch_sizes
from tools.config.command_line import CommandLine
from tools.conversion import backends
from tools.conversion.request import ALGORITHMS, GRANULARITIES, TYPES
from tools.errors import UserError

PRECISIONS = ("fp32", "int8_fp32")
TABLE_BATCH_SIZES = "1,4,8,16,32,64"
REST_SECONDS = 0.02  # the threads of the previous side stop spinning in this time
_VERSIONS = ("numpy", "tensorflow", "keras", "openvino", "onnxruntime", "nncf", "tf2onnx")


def add_flags(
    flags: CommandLine, default_batches: str, data: str, made_up: str, *, samples: str, table: str
) -> None:
    """Adds the flags that these benchmarks share.

    Args:
        flags: command line of the program.
        default_batches: batch sizes to time by default.
        data: help text of `--data_dir`.
        made_up: default text of `--data_dir`.
        samples: name of the samples in `--data_dir`, such as "Images".
        table: help text of `--table`.
    """
    default_batches += f"; --table: {TABLE_BATCH_SIZES}"
    flags.group("Input")
    flags.string("batch_sizes", None, "Batch sizes to time.", default_text=default_batches)
    flags.string("data_dir", None, data, default_text=made_up)
    flags.group("Measurement")
    flags.boolean("table", False, table)
    flags.integer("loop", 20, "Rounds, after a warm-up.")
    about = "Warm-up of each side and batch size, in which runtimes adapt to a new shape."
    flags.number("warmup_seconds", 5.0, about)
    flags.group("Runtime")
    flags.integer("threads", 2, "Threads of each side.")
    flags.group("Conversion")
    about = f"Runtimes to convert for: {', '.join(backends.NAMES)}."
    flags.string("backends", "openvino,onnxruntime", about)
    about = f"Precisions to convert to: {', '.join(PRECISIONS)}."
    flags.string("precisions", ",".join(PRECISIONS), about)
    flags.group("Quantization")
    flags.integer("calibration_samples", 128, f"{samples} to quantize with.")
    about = "Adds a second quantized side with this setting, beside the one with default settings."
    flags.enum("quantize_algo", "linear", ALGORITHMS, about)
    flags.enum("quantize_type", "symm", TYPES, about)
    flags.enum("quantize_granularity", "per_axis", GRANULARITIES, about)
    flags.string("keep_in_float", "", about)
    flags.group("Output")
    about = "Folder in which the models are kept for another run."
    flags.string("work_dir", None, about, default_text="none is kept")
    flags.string("json", None, "Report to write.", default_text="none")


def parse(
    flags: CommandLine, argv: list[str], default_batches: str, lowest: Mapping[str, int]
) -> SimpleNamespace:
    """Parses and checks the flags of `add_flags`.

    Args:
        flags: command line of the program.
        argv: arguments of the program.
        default_batches: batch sizes to time by default.
        lowest: smallest values of other flags than `loop`, by flag.

    Returns:
        The values, with `batches`, `backends` and `precisions` as lists.
    """
    values, rest = flags.parse(argv)
    if rest:
        raise UserError.expected("flags alone", " ".join(rest), "See --help")
    default = TABLE_BATCH_SIZES if values.table else default_batches
    lists = {name: getattr(values, name).split(",") for name in ("backends", "precisions")}
    lists["batches"] = batch_sizes(values.batch_sizes or default)
    for name in lists["backends"]:
        backends.get(name)
    if unknown := set(lists["precisions"]) - set(PRECISIONS):
        raise UserError.expected(
            f"--precisions among {', '.join(PRECISIONS)}", min(unknown), "Correct --precisions"
        )
    for flag, low in {"loop": 1, **lowest}.items():
        if getattr(values, flag) < low:
            raise UserError.expected(
                f"--{flag} >= {low}", getattr(values, flag), f"Correct --{flag}"
            )
    return SimpleNamespace(**vars(values) | lists)


def described(values: SimpleNamespace, versions: Mapping[str, str]) -> dict:
    """Returns the settings and versions for the report, and prints them in one line.

    Args:
        values: values of `parse`.
        versions: versions of the peer's packages.
    """
    known = {name: importlib.metadata.version(name) for name in _VERSIONS} | dict(versions)
    shown = ", ".join(f"{name} {x}" for name, x in known.items())
    print(
        f"{counted(values.threads, 'thread')}, "
        f"medians of {counted(values.loop, 'round')} in turn; {shown}"
    )
    return {
        "threads": values.threads,
        "machine": platform.machine(),
        "loop": values.loop,
        "warmup_seconds": values.warmup_seconds,
        "data": values.data_dir or "made up",
        "versions": known,
    }


def add_ratios(times: Mapping[str, dict[str, float]]) -> None:
    """Adds the speed of each side relative to the peer and to the peer's own export."""
    for name, row in times.items():
        for key, other in (("speedup", PEER), ("against_export", export_name(name.split()[0]))):
            if other in times and other != name:
                row[key] = times[other]["median_ms"] / row["median_ms"]


def show_times(title: str, batch: int, times: Mapping[str, Mapping]) -> None:
    """Prints the times of one batch size."""
    width = max(map(len, times))
    print(f"\n{title}, batch {batch}")
    print(f"{'':{width}}  median ms    p95 ms     fps   x {PEER}   x PyTorch's ONNX")
    for name, row in times.items():
        ratios = (f"{row[x]:.2f}" if x in row else "-" for x in ("speedup", "against_export"))
        line = "{:>18}{:>19}".format(*ratios)
        print(
            f"{name:{width}}  {row['median_ms']:9.1f} {row['p95_ms']:9.1f} {row['fps']:7.1f}{line}"
        )
