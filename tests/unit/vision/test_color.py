"""Compares color operations with Pillow; the results must be identical."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from vision import color

FACTORS = (0.1, 0.5, 1.0, 1.37, 1.9)


@pytest.fixture(
    scope="module", params=["smooth", "noise", "narrow", "two_values", "one_value", "empty_channel"]
)
def image(request):
    """Returns images of 37 x 50 pixels with different histograms."""
    rng = np.random.default_rng(1)
    down, right = np.mgrid[:37, :50]
    smooth = np.stack([3 * down + 2 * right, 5 * right, 255 - 6 * down], -1) % 256
    noise = rng.integers(0, 256, (37, 50, 3))
    found = {
        "smooth": smooth,
        "noise": noise,
        "narrow": 100 + noise % 23,
        "two_values": np.where(noise < 40, 17, 203),
        "one_value": np.full_like(noise, 129),
        "empty_channel": smooth * [1, 0, 1],
    }
    return Image.fromarray(found[request.param].astype("uint8"))


def assert_equal(found, expected):
    np.testing.assert_array_equal(found.numpy(), np.asarray(expected))


def test_auto_contrast(image):
    assert_equal(color.auto_contrast(np.asarray(image)), ImageOps.autocontrast(image))


def test_equalize(image):
    assert_equal(color.equalize(np.asarray(image)), ImageOps.equalize(image))


def test_invert(image):
    assert_equal(color.invert(tf.constant(np.asarray(image))), ImageOps.invert(image))


@pytest.mark.parametrize("num_bits", [1, 2, 4, 8])
def test_posterize(image, num_bits):
    assert_equal(color.posterize(np.asarray(image), num_bits), ImageOps.posterize(image, num_bits))


def test_no_bits_are_black(image):
    assert not np.any(color.posterize(np.asarray(image), 0))


@pytest.mark.parametrize("threshold", [0, 26, 128, 256])
def test_solarize(image, threshold):
    assert_equal(color.solarize(np.asarray(image), threshold), ImageOps.solarize(image, threshold))


@pytest.mark.parametrize("addition", [0, 60, 110, 200])
def test_solarize_add(image, addition):
    table = [min(255, i + addition) if i < 128 else i for i in range(256)]
    assert_equal(color.solarize_add(np.asarray(image), addition), image.point(3 * table))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color", "Sharpness"])
def test_enhancement(image, name, factor):
    found = getattr(color, name.lower())(np.asarray(image), factor)
    assert_equal(found, getattr(ImageEnhance, name)(image).enhance(factor))
