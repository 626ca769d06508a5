"""Affine transforms against Pillow: within one gray level.

Pillow cuts fractions off, and so do we: where its double and our single precision lie on two sides
of a whole number, the results differ by one.
"""

import numpy as np
import pytest
from PIL import Image

from vision import warping

FILL = (124, 116, 104)
HEIGHT, WIDTH = 40, 56


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(2)
    return Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype("uint8"))


def by_pillow(name, image, amount, interpolation):
    options = {"resample": Image.Resampling[interpolation.upper()], "fillcolor": FILL}
    if name == "rotate":
        return image.rotate(amount, **options)
    matrix = {
        "shear_x": (1, amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, 0),
        "translate_x": (1, 0, amount * WIDTH, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, amount * HEIGHT),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, **options)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("name", "amounts"),
    [
        ("shear_x", (-0.3, -0.11, 0.0, 0.27)),
        ("shear_y", (-0.3, -0.11, 0.0, 0.27)),
        ("translate_x", (-0.44, -0.1, 0.0, 0.173)),
        ("translate_y", (-0.44, -0.1, 0.0, 0.173)),
        ("rotate", (-30.0, -8.5, 0.0, 3.0, 27.0)),
    ],
)
def test_like_pillow(image, name, amounts, interpolation):
    for amount in amounts:
        found = getattr(warping, name)(np.asarray(image), amount, interpolation, FILL).numpy()
        expected = np.asarray(by_pillow(name, image, amount, interpolation))
        difference = np.abs(found.astype(int) - expected)
        differing = np.mean(np.any(difference > 0, axis=-1))
        if interpolation == "nearest":
            # Pillow rounds matrices to 2^-16, so that a place between two pixels may go either way.
            assert differing <= 0.002
        else:
            assert difference.max() <= 1
            # Fractions such as 0.4 put a fifth of the sums of two values on whole numbers, and
            # that of three channels.
            assert differing <= 0.5
        assert np.any(found != np.asarray(image)) == (amount != 0)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_whole_pixels_move_unchanged(image, interpolation):
    pixels = np.asarray(image)
    found = warping.translate_x(pixels, 7 / WIDTH, interpolation, FILL).numpy()
    np.testing.assert_array_equal(found[:, :-7], pixels[:, 7:])
    np.testing.assert_array_equal(found[:, -7:], np.broadcast_to(FILL, (HEIGHT, 7, 3)))
    found = warping.translate_y(pixels, -5 / HEIGHT, interpolation, FILL).numpy()
    np.testing.assert_array_equal(found[5:], pixels[:-5])
    np.testing.assert_array_equal(found[:5], np.broadcast_to(FILL, (5, WIDTH, 3)))
