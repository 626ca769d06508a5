"""Draws a data set of simple shapes in ImageFolder layout, to try image training offline.

The same arguments give the same files. Every image has its own random generator, seeded by (seed,
split, class, number), so a larger set contains the images of a smaller one.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import is_made_of, new_folder, to_json

SPLITS = ("train", "val")
SET_FILE = "images.json"
RECIPE = 1  # increase with every change that alters the images
# Corners of each shape, within the unit circle; None draws a circle.
SHAPES = {
    "circle": None,
    "cross": [(0.33, 1), (0.33, 0.33), (1, 0.33), (1, -0.33), (0.33, -0.33), (0.33, -1)],
    "square": [(0.75, 0.75), (0.75, -0.75), (-0.75, -0.75), (-0.75, 0.75)],
    "triangle": [(0, 1), (0.87, -0.5), (-0.87, -0.5)],
}
SHAPES["cross"] += [(-x, -y) for x, y in SHAPES["cross"]]
_OVERSAMPLING = 4  # shapes are drawn larger and then reduced, for smooth edges
_DARK, _BRIGHT = 100, 150  # upper limit of background values, lower limit of shape values


@dataclass(frozen=True, slots=True)
class Arguments:
    """Everything that determines the content of a data set; written to `images.json`."""

    train_images: int
    val_images: int
    image_size: int
    seed: int
    recipe: int = RECIPE

    def validate(self) -> None:
        """Raises UserError if a number is out of range."""
        for name, low in (("train_images", 1), ("val_images", 1), ("image_size", 16), ("seed", 0)):
            if getattr(self, name) < low:
                raise UserError.expected(
                    f"--{name} of at least {low}", getattr(self, name), f"Change --{name}"
                )


def draw(shape: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Draws a bright shape with random position, size, angle and color on a dark background.

    Args:
        shape: key of `SHAPES`.
        size: side of the image in pixels.
        rng: random generator.
    """
    side = size * _OVERSAMPLING
    background, color = rng.integers(0, _DARK, 3), rng.integers(_BRIGHT, 256, 3)
    image = Image.new("RGB", (side, side), tuple(background.tolist()))
    radius = rng.uniform(0.2, 0.4) * side
    center = rng.uniform(radius, side - radius, 2)
    angle = rng.uniform(-0.3, 0.3)
    pen = ImageDraw.Draw(image)
    if SHAPES[shape] is None:
        pen.ellipse([*(center - radius), *(center + radius)], tuple(color.tolist()))
    else:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = center + radius * np.array(SHAPES[shape]) @ turn
        pen.polygon([tuple(corner) for corner in corners.tolist()], tuple(color.tolist()))
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float64)
    pixels += rng.normal(0, 8, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype("uint8"))


def write_images(folder: Path, arguments: Arguments) -> None:
    """Writes a data set with the same number of images of every shape into an empty folder."""
    counts = dict(zip(SPLITS, (arguments.train_images, arguments.val_images), strict=True))
    with tqdm(total=len(SHAPES) * sum(counts.values()), unit="image", delay=2) as bar:
        for split_number, (split, count) in enumerate(counts.items()):
            for label, shape in enumerate(SHAPES):
                (folder / split / shape).mkdir(parents=True)
                for number in range(count):
                    rng = np.random.default_rng([arguments.seed, split_number, label, number])
                    image = draw(shape, arguments.image_size, rng)
                    image.save(folder / split / shape / f"{number:05d}.png")
                    bar.update()
    (folder / SET_FILE).write_text(to_json(asdict(arguments), indent=2) + "\n")


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
    values, rest = flags.parse(argv)
    if rest:
        raise UserError.expected("flags only", rest[0], "See --help")
    if not values.output_dir:
        raise UserError.expected("--output_dir", "none", "Name a folder to write")
    arguments = Arguments(values.train_images, values.val_images, values.image_size, values.seed)
    arguments.validate()
    output_dir = Path(values.output_dir).absolute()
    if is_made_of(output_dir / SET_FILE, asdict(arguments), "images"):
        print(f"{values.output_dir} was already made with these arguments.", file=sys.stderr)
        return 0
    with new_folder(output_dir) as folder:
        write_images(folder, arguments)
    print(f"{values.output_dir}: {', '.join(SHAPES)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
