"""Converts an exported SavedModel or an ONNX file for another runtime."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.families import read_examples
from tools.inference.flags import add_conversion_flags
from tools.inference.opening import converted, restrict_devices, say_assumptions
from tools.inference.options import ConversionOptions


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.cli.convert",
        "Converts an exported SavedModel or an ONNX file for another runtime.",
        "--native_savedmodel_dir=DIR --converted_savedmodel_dir=DIR [FLAGS]",
        example="--native_savedmodel_dir=exports/m --converted_savedmodel_dir=converted/m",
    )
    flags.group("Input")
    about = "SavedModel folder or ONNX file to convert."
    flags.string("native_savedmodel_dir", None, about, default_text=REQUIRED)
    flags.group("Conversion")
    flags.integer("batch_size", 1, "Usual number of inputs run together.")
    add_conversion_flags(flags)
    values, rest = flags.parse(argv)
    if rest or not values.native_savedmodel_dir:
        raise UserError.expected(
            "--native_savedmodel_dir DIR", " ".join(argv) or "nothing", "See --help"
        )
    restrict_devices(values.visible_devices)
    options = from_flags(ConversionOptions, values)
    say_assumptions(values.native_savedmodel_dir)
    manifest = converted(values.native_savedmodel_dir, options, read_examples)
    done = "already there" if manifest["reused"] else f"made in {manifest['seconds']:.1f} s"
    request = manifest["request"]
    place = manifest["directory"]
    print(f"{place}: {request['backend']}, {request['precision']}, {done}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
