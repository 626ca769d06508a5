"""Draws a data set of simple shapes, to try image training offline; see `vision.synthesis`."""

import sys
from dataclasses import asdict
from pathlib import Path

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import is_made_of
from vision.synthesis import SET_FILE, SHAPES, SPLITS, Arguments, make_images


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.cli.synthesize_images",
        f"Draws a data set in ImageFolder layout, with the classes {', '.join(SHAPES)} and the "
        f"splits {' and '.join(SPLITS)}.",
        "--output_dir=DIR [FLAGS]",
        example="--output_dir=data/shapes",
    )
    flags.group("Output")
    flags.string("output_dir", None, "New folder to write.", default_text=REQUIRED)
    flags.integer("train_images", 80, f"Images of each shape in {SPLITS[0]}.")
    flags.integer("val_images", 20, f"Images of each shape in {SPLITS[1]}.")
    flags.integer("image_size", 72, "Width and height in pixels.")
    flags.integer("seed", 0, "Seed of all random choices.")
    values = flags.parse_flags(argv)
    if not values.output_dir:
        raise UserError.expected("--output_dir", "none", "Name a folder to write")
    arguments = Arguments(values.train_images, values.val_images, values.image_size, values.seed)
    arguments.validate()
    output_dir = Path(values.output_dir).absolute()
    if is_made_of(output_dir / SET_FILE, asdict(arguments), "images"):
        print(f"{values.output_dir} was already made with these arguments.", file=sys.stderr)
        return 0
    make_images(output_dir, arguments)
    print(f"{values.output_dir}: {', '.join(SHAPES)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
