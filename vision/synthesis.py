"""Synthetic images: a data set of simple shapes in ImageFolder layout.

The same arguments give the same files. Every image has its own random generator, seeded by (seed,
split, class, number), so a larger set contains the images of a smaller one.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from tools.errors import UserError
from tools.files import is_made_of, new_folder, one_at_a_time, to_json

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


def make_images(output_dir: Path, arguments: Arguments) -> None:
    """Draws a data set. The folder appears only after all files are written."""
    with new_folder(output_dir) as folder:
        write_images(folder, arguments)


def cached_images(cache: Path) -> Path:
    """Returns a small data set in a cache, which the first call on a machine draws.

    Args:
        cache: folder of the cache.

    Raises:
        UserError: the folder cannot be written, or has other content.
    """
    arguments = Arguments(train_images=80, val_images=20, image_size=72, seed=0)
    folder = cache / f"shapes-{RECIPE}"
    with one_at_a_time(folder):
        if not is_made_of(folder / SET_FILE, asdict(arguments), "images"):
            make_images(folder, arguments)
    return folder
