"""Draws the pictures of README and docs from a sound and an image that the project makes itself."""

import io
import os
import sys
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

import conformer
import vision
from conformer.features import SpecAugment
from tools.config.command_line import CommandLine, run
from tools.files import write_bytes
from tools.speech.audio import load
from vision.activation_map import draw as draw_maps
from vision.images import crop_image, normalize
from vision.session import feed
from vision.signatures import PREDICTED

PROJECT = Path(__file__).resolve().parents[2]
SAMPLE = PROJECT / "conformer" / "pretrained" / "digits" / "sample.flac"
_FRAME_STEP_SECONDS = 0.01
_MASKS = {"num_time_masks": 2, "max_time_mask_share": 0.1, "num_frequency_masks": 2}
_MASKS |= {"max_frequency_mask_bins": 10}
_DPI = 80


def draw_box(size: int = 256) -> Image.Image:
    """Draws a cardboard box on a white table, `[size, size, 3]`."""
    image = Image.new("RGB", (size, size), (226, 226, 222))
    pen = ImageDraw.Draw(image)
    unit = size / 16

    def face(color: tuple[int, int, int], *corners: tuple[float, float]) -> None:
        pen.polygon([(x * unit, y * unit) for x, y in corners], color)

    face((176, 174, 168), (3, 13), (11, 14.5), (15, 12), (14, 11))  # the shadow
    face((168, 124, 78), (2.5, 6), (9, 7.5), (9, 14), (2.5, 12))
    face((142, 100, 60), (9, 7.5), (13.5, 5), (13.5, 11), (9, 14))
    face((190, 148, 100), (2.5, 6), (7, 4), (13.5, 5), (9, 7.5))
    face((214, 184, 140), (5.4, 6.65), (9.9, 4.45), (10.9, 4.6), (6.4, 6.9))  # tape
    noise = np.random.default_rng(0).normal(0, 4, (size, size, 1))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype("uint8"))


def read_features() -> tuple[np.ndarray, str]:
    """Computes the normalized features `[T, F]` of the bundled sound, and recognizes its text."""
    with conformer.load(run_eagerly=True) as model:
        waveform = load(SAMPLE, model.limits)[None]
        inputs = {"waveforms": waveform, "lengths": np.array([waveform.shape[1]], "int32")}
        features = model.run(inputs, "features")["features"]
        return features[0], model.recognize(inputs)[0].text


class Activation(NamedTuple):
    """Where a classifier sees the class of an image.

    Attributes:
        image: uint8 `[H, W, 3]`, cropped as the model takes it.
        maps: `[h, w]` of each branch by its name.
        name: of the predicted class.
    """

    image: np.ndarray
    maps: dict[str, np.ndarray]
    name: str


def find_activation(image: Image.Image) -> Activation:
    """Runs the bundled classifier on an image."""
    content = io.BytesIO()
    image.save(content, "png")
    with vision.load(run_eagerly=True) as model:
        cropped = crop_image(content.getvalue(), model.preprocessing)
        inputs = feed(model.pipeline, normalize(cropped, model.preprocessing)[None])
        inputs["classes"] = np.array([PREDICTED], "int32")
        outputs = model.run(inputs, "activation_map")
        name = model.classes.name(int(outputs["classes"][0]))
    maps = {
        "convolution branch": outputs["convolution_map"][0],
        "transformer branch": outputs["transformer_map"][0],
    }
    return Activation(cropped, maps, name)


def draw_features(axes, features: np.ndarray, title: str) -> None:
    """Draws features `[T, F]` over time."""
    seconds = len(features) * _FRAME_STEP_SECONDS
    extent = (0, seconds, 0, features.shape[1])
    axes.imshow(features.T, "magma", aspect="auto", origin="lower", extent=extent)
    axes.set(title=title, xlabel="seconds", ylabel="mel bin")


def mask(features: np.ndarray, seed: int) -> np.ndarray:
    """Applies SpecAugment to features `[T, F]`."""
    layer = SpecAugment(**_MASKS)
    uniforms = np.random.default_rng(seed).random((1, layer.num_uniforms), "float32")
    masked = layer(features[None], np.array([len(features)]), uniforms)
    return np.asarray(masked)[0]


def reduce_colors(png: bytes) -> bytes:
    """Reduces a PNG to 256 colors."""
    content = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(content, "png", optimize=True)
    return content.getvalue()


def to_png(figure: Figure) -> bytes:
    """Saves a figure as a small PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    return reduce_colors(content.getvalue())


def draw_overview(features: np.ndarray, text: str, activation: Activation) -> bytes:
    """Draws the picture of the README: features, an image, and what the model looks at."""
    figure = Figure((10, 3), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    draw_features(left, features, f"speech: {text}")
    middle.imshow(activation.image)
    middle.set_title(f"image: {activation.name}")
    height, width = activation.image.shape[:2]
    right.imshow(activation.image)
    right.imshow(
        activation.maps["transformer branch"],
        "jet",
        alpha=0.45,
        extent=(0, width, height, 0),
        interpolation="bicubic",
    )
    right.set_title("activation map")
    for axes in (middle, right):
        axes.axis("off")
    return to_png(figure)


def draw_spectrogram(features: np.ndarray, text: str) -> bytes:
    """Draws features with their text."""
    figure = Figure((8, 3), layout="constrained")
    draw_features(figure.add_subplot(), features, text)
    return to_png(figure)


def draw_spec_augment(features: np.ndarray) -> bytes:
    """Draws features, and two draws of SpecAugment."""
    figure = Figure((10, 3), layout="constrained")
    first, *others = figure.subplots(1, 3, sharey=True)
    draw_features(first, features, "features")
    for number, axes in enumerate(others, 1):
        draw_features(axes, mask(features, number), f"SpecAugment, draw {number}")
    return to_png(figure)


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.cli.draw_docs",
        "Draws the pictures of README and docs.",
        "[FLAGS]",
        example="--output_dir=docs/images",
    )
    flags.group("Output")
    flags.string("output_dir", str(PROJECT / "docs" / "images"), "Folder of the pictures.")
    values = flags.parse_flags(argv)
    folder = Path(values.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    features, text = read_features()
    activation = find_activation(draw_box())
    title = f"drawn box (class: {activation.name})"
    pictures = {
        "overview": draw_overview(features, text, activation),
        "spectrogram": draw_spectrogram(features, text),
        "spec_augment": draw_spec_augment(features),
        "activation_map": reduce_colors(draw_maps(activation.image, activation.maps, title)),
    }
    for name, content in pictures.items():
        write_bytes(folder / f"{name}.png", content)
        print(f"{folder / name}.png: {len(content)} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
