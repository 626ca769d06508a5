"""Draws augmented variants of an image, each with the operations that were applied to it."""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tools.amounts import counted
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import write_bytes
from vision.augmentation_config import AugmentationConfig
from vision.config import PreprocessingConfig
from vision.flags import add_config_flags, training_config_options
from vision.images import ImageError, crop_image
from vision.training_data import ImageAugmentation, image_seed

_MAX_COUNT = 100
_PANEL_INCHES = 2.2


@tf.autograph.experimental.do_not_convert
def variants(
    path: str,
    count: int,
    seed: int,
    augmentation: AugmentationConfig,
    *,
    preprocessing: PreprocessingConfig,
) -> list[tuple[np.ndarray, list[str]]]:
    """Returns augmented variants of an image, made by the training pipeline.

    Args:
        path: path of an image that can be read.
        count: number of variants.
        seed: seed of the first variant; the others use the following numbers.
        augmentation: augmentation of the recipe.
        preprocessing: size, mean and standard deviation of the model inputs.

    Returns:
        For each variant the image `[S, S, 3]` float32, normalized, and the operations of
        RandAugment.
    """
    augment, path_bytes = ImageAugmentation(augmentation, preprocessing), os.fsencode(path)

    def read(number):
        seed_of_one = image_seed(tf.constant(seed, tf.int64), tf.constant(0, tf.int64), number)
        return augment.crop(tf.constant(path_bytes), seed_of_one).map(
            lambda found: (found["image"], seed_of_one)
        )

    def change(image, seed_of_one):
        return augment.finish(augment.change(image, seed_of_one), seed_of_one), seed_of_one

    found = []
    for image, seed_of_one in tf.data.Dataset.range(count).interleave(read).map(change):
        words = []
        if augment.rand_augment is not None:
            words = augment.rand_augment.describe(augment.draws(seed_of_one))
        found.append((image.numpy(), words))
    return found


def shown(image: np.ndarray, preprocessing: PreprocessingConfig) -> np.ndarray:
    """Reverses the normalization of an image `[S, S, 3]`; returns uint8, clipped to 0..255."""
    values = image * np.asarray(preprocessing.std) + np.asarray(preprocessing.mean)
    return np.clip(np.round(255 * values), 0, 255).astype("uint8")


def draw_sheet(images: Sequence[np.ndarray], titles: Sequence[str]) -> bytes:
    """Draws images with titles on a square grid; returns the content of a PNG file."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    figure = Figure((_PANEL_INCHES * columns, (_PANEL_INCHES + 0.5) * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, image, title in zip(panels, images, titles, strict=False):
        panel.imshow(image)
        panel.set_title(title, fontsize=7)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "vision.show_augmentations",
        "Draws augmented variants of an image as used in training, without mixup and CutMix.",
        "IMAGE [FLAGS]",
        example="photo.jpg --output=sheet.png",
    )
    flags.group("Output")
    flags.integer("count", 15, "Number of variants to draw.", short_name="n")
    flags.integer("seed", 0, "Seed of the first variant.")
    flags.string("output", "augmentations.png", "PNG file to write.", short_name="o")
    add_config_flags(flags, "preprocessing", "augmentation")
    values, paths = flags.parse(argv)
    if len(paths) != 1 or not 1 <= values.count <= _MAX_COUNT or values.seed < 0:
        raise UserError.expected(
            f"one image, --count from 1 to {_MAX_COUNT} and --seed of 0 or more",
            " ".join(argv) or "nothing",
            "See --help",
        )
    config = training_config_options(values).load()
    preprocessing = config.preprocessing
    try:
        images = [crop_image(paths[0], preprocessing)]
    except ImageError as error:
        raise UserError.expected("an image that can be read", error, "Check the file") from error
    titles = [f"{Path(paths[0]).name}\nas in evaluation"]
    for image, words in variants(
        paths[0], values.count, values.seed, config.augmentation, preprocessing=preprocessing
    ):
        images.append(shown(image, preprocessing))
        titles.append("\n".join(words) or "crop and flip only")
    write_bytes(Path(values.output), draw_sheet(images, titles))
    print(f"{values.output}: {counted(values.count, 'variant')} of {paths[0]}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
