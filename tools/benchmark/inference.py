"""Times one signature of a model in TensorFlow and converted, in turn, on random inputs."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tools.benchmark.turns import batch_sizes, time_in_turn, timed
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.config.making_options import from_flags
from tools.conversion.dim_range import parse_dim_ranges
from tools.conversion.pipeline import read_pipeline
from tools.conversion.protocol import TensorSpec
from tools.conversion.samples import random_inputs
from tools.errors import UserError
from tools.families import read_examples
from tools.files import to_json, write_text
from tools.inference.flags import add_conversion_flags
from tools.inference.opening import converted, restrict_devices
from tools.inference.options import ConversionOptions
from tools.inference.runner import load


def inputs_of_sizes(
    specs: Sequence[TensorSpec], batch: int, sizes: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Returns random inputs of given sizes for a converted signature.

    Args:
        specs: inputs, with a range for every variable dimension.
        batch: number of rows.
        sizes: sizes of the variable dimensions after the batch, by tensor. The default is the
            geometric mean of each range.

    Raises:
        UserError: `sizes` names an unknown tensor or has the wrong number of sizes.
    """
    shapes = {}
    for name, _, shape in specs:
        free = [x for x in shape if not isinstance(x, int)][1:]
        given = sizes.get(name, [round((low * high) ** 0.5) for low, high in free])
        if len(given) != len(free):
            raise UserError.expected(f"{len(free)} sizes for {name}", len(given), "Correct --size")
        rest = iter((batch, *given))
        shapes[name] = [x if isinstance(x, int) else next(rest) for x in shape]
    if unknown := sizes.keys() - shapes.keys():
        raise UserError.expected(
            f"a tensor among {', '.join(shapes)}", min(unknown), "Correct --size"
        )
    return random_inputs(specs, shapes)


def _fixed(
    options: ConversionOptions, specs: Sequence[TensorSpec], inputs: Mapping[str, np.ndarray]
) -> ConversionOptions:
    """Returns the options for a model that is converted for the shapes of these inputs only."""
    sizes = []
    for name, _, shape in specs:
        free = [n for n, x in zip(inputs[name].shape, shape, strict=True) if not isinstance(x, int)]
        if free:
            sizes.append(f"{name}={','.join(map(str, free))}")
    return replace(options, dim_range=";".join(sizes), converted_savedmodel_dir=None)


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.inference",
        "Times a model on random inputs, in TensorFlow and converted to each --quant_precision "
        "(separated by commas), in turn.",
        "--native_savedmodel_dir=DIR [FLAGS]",
        example="--native_savedmodel_dir=exports/m --quant_precision=fp32,int8_fp32",
    )
    flags.group("Model")
    flags.string("native_savedmodel_dir", None, "SavedModel to time.", default_text=REQUIRED)
    about = "Converted signature to time."
    flags.string("signature", None, about, default_text="the first one")
    flags.group("Input")
    flags.string("batch_sizes", "1,4,8,16", "Batch sizes to time.")
    flags.string(
        "size",
        None,
        'Sizes after the batch: "waveforms=160000".',
        default_text="the middle of the range",
    )
    flags.group("Measurement")
    flags.integer("loop", 20, "Rounds, after a warm-up.")
    about = "Warm-up of each runner and batch size, in which runtimes adapt to a new shape."
    flags.number("warmup_seconds", 5.0, about)
    flags.boolean("fixed_shape", True, "Also times a model that is converted for each exact shape.")
    flags.group("Output")
    flags.string("json", None, "Report to write.")
    add_conversion_flags(flags)
    values, rest = flags.parse(argv)
    if rest or not values.native_savedmodel_dir:
        raise UserError.expected(
            "--native_savedmodel_dir DIR", " ".join(argv) or "nothing", "See --help"
        )
    batches = batch_sizes(values.batch_sizes)
    if values.loop < 1:
        raise UserError.expected("--loop >= 1", values.loop, "Correct --loop")
    given = parse_dim_ranges(values.size) if values.size else {}
    sizes = {name: [low for low, _ in ranges] for name, ranges in given.items()}
    pipeline = read_pipeline(values.native_savedmodel_dir)
    signature = values.signature or next(iter(pipeline["convert"]))
    if signature not in pipeline["convert"]:
        raise UserError.expected(
            f"a --signature among {', '.join(pipeline['convert'])}", signature, "Choose one"
        )
    restrict_devices(values.visible_devices)
    native = values.native_savedmodel_dir
    precision, *others = (values.quant_precision or "fp32").split(",")
    options = from_flags(
        ConversionOptions, values, batch_size=max(batches), quant_precision=precision
    )
    manifest = converted(native, options, read_examples)
    runners = {"eager": load(native), "jit": load(manifest["directory"])}
    for other in others:
        changed = replace(options, quant_precision=other, converted_savedmodel_dir=None)
        runners[other] = load(converted(native, changed, read_examples)["directory"])
    specs = runners["jit"].signatures[signature]
    results = []
    for batch in batches:
        inputs = inputs_of_sizes(specs, batch, sizes)
        if values.fixed_shape:
            fixed = converted(native, _fixed(options, specs, inputs), read_examples)
            runners["fixed"] = load(fixed["directory"])
        calls = {name: timed(x.run, inputs, signature) for name, x in runners.items()}
        times = time_in_turn(calls, batch, values.loop, values.warmup_seconds)
        median = {name: time["median_ms"] for name, time in times.items()}
        row = {"batch": batch, **times, "speedup": median["eager"] / median["jit"]}
        row["shapes"] = {name: list(value.shape) for name, value in inputs.items()}
        line = f"batch {batch:3d}: eager {median['eager']:8.1f} ms, jit {median['jit']:8.1f} ms, "
        line += f"{row['speedup']:.2f} x"
        for other in others:
            line += f"; {other} {median[other]:8.1f} ms, {median['jit'] / median[other]:.2f} x jit"
        if values.fixed_shape:
            row["range_against_fixed"] = median["fixed"] / median["jit"]
            line += f"; fixed shape {median['fixed']:8.1f} ms, "
            line += f"the range has {row['range_against_fixed']:.2f} of its speed"
        results.append(row)
        print(line)
    report = {
        "signature": signature,
        "request": manifest["request"],
        "versions": {**manifest["versions"], **manifest["converted_by"]},
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "loop": values.loop,
        "results": results,
    }
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
