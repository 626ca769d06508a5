"""Draws class activation maps: the parts of an image that lead each branch to the class."""

import io
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.conversion.pipeline import read_pipeline
from tools.errors import UserError
from tools.files import check_not_input, check_writable, write_bytes
from tools.inference.runner import load
from vision.classes import classes_of
from vision.config import PreprocessingConfig
from vision.images import ImageError, crop_image, normalize
from vision.session import FAMILY, feed
from vision.signatures import PREDICTED


def draw(image: np.ndarray, maps: dict[str, np.ndarray], title: str) -> bytes:
    """Draws an image and, beside it, one copy of the image for each map with the map over it.

    Args:
        image: `[H, W, 3]` uint8.
        maps: maps `[h, w]` by title. Each map is scaled from its minimum to its maximum.
        title: title of the figure.

    Returns:
        The content of a PNG file.
    """
    figure = Figure((3.2 * (1 + len(maps)), 3.6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 1 + len(maps))
    panels[0].imshow(image)
    panels[0].set_title("image")
    for panel, (name, values) in zip(panels[1:], maps.items(), strict=True):
        scaled = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
        height, width = image.shape[:2]
        smooth = Image.fromarray(scaled.astype("float32")).resize((width, height), Image.BICUBIC)
        panel.imshow(image)
        panel.imshow(np.asarray(smooth), "jet", alpha=0.45, vmin=0, vmax=1)
        panel.set_title(name)
    for panel in panels:
        panel.axis("off")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "vision.activation_map",
        "Draws class activation maps: the parts of an image that lead each branch to the class.",
        "IMAGE --native_savedmodel_dir=DIR [FLAGS]",
        example="photo.jpg --native_savedmodel_dir=exports/tiny --output=cam.png",
    )
    flags.group("Model")
    about = "SavedModel written by vision.export."
    flags.string("native_savedmodel_dir", None, about, default_text=REQUIRED)
    about = "File of class names."
    flags.string("imagenet_label_file", None, about, default_text="the names in the model")
    flags.group("Output")
    flags.string("output", "cam.png", "PNG to write.", short_name="o")
    about = "Number of the class."
    flags.integer("class_index", PREDICTED, about, default_text="the predicted class")
    values, paths = flags.parse(argv)
    if len(paths) != 1 or not values.native_savedmodel_dir:
        raise UserError.expected(
            "an image and --native_savedmodel_dir", " ".join(argv) or "nothing", "See --help"
        )
    pipeline = read_pipeline(values.native_savedmodel_dir, FAMILY)
    if not PREDICTED <= values.class_index < pipeline["num_classes"]:
        raise UserError.expected(
            f"--class_index below {pipeline['num_classes']}",
            values.class_index,
            "Correct --class_index",
        )
    classes = classes_of(pipeline, values.imagenet_label_file)
    preprocessing = PreprocessingConfig(**pipeline["preprocessing"])
    try:
        image = crop_image(paths[0], preprocessing)
    except ImageError as error:
        raise UserError.expected("an image that can be read", error, "Check the file") from error
    check_writable(Path(values.output))
    check_not_input(Path(values.output), paths)
    inputs = feed(pipeline, normalize(image, preprocessing)[None])
    inputs["classes"] = np.array([values.class_index], "int32")
    outputs = load(values.native_savedmodel_dir).run(inputs, "activation_map")
    number = int(outputs["classes"][0])
    title = f"{Path(paths[0]).name} (class: {number} {classes.name(number) or ''}".rstrip() + ")"
    maps = {
        "convolution branch": outputs["convolution_map"][0],
        "transformer branch": outputs["transformer_map"][0],
    }
    write_bytes(Path(values.output), draw(image, maps, title))
    print(f"{values.output}: {title}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
