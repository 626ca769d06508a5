"""Tests the figure of augmented variants."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tests.support.errors import refused
from vision.augmentation_config import AugmentationConfig
from vision.config import PreprocessingConfig
from vision.images import normalize
from vision.show_augmentations import main, shown, variants

PREPROCESSING = PreprocessingConfig(image_size=24)


@pytest.fixture
def path(tmp_path, rng):
    place = tmp_path / "a.jpg"
    Image.fromarray(rng.integers(0, 256, (50, 60, 3)).astype("uint8")).save(place)
    return str(place)


def test_variants_and_their_names(tmp_path, rng):
    """Applying the printed operations with Pillow gives the variant."""
    path = str(tmp_path / "square.png")
    Image.fromarray(rng.integers(30, 200, (24, 24, 3)).astype("uint8")).save(path)
    off = {"min_crop": 1.0, "hflip": 0.0, "re_prob": 0.0}
    config = AugmentationConfig(auto_augment="rand-n2-m9-inc1-p0.5", **off)
    found = variants(path, 40, 3, config, preprocessing=PREPROCESSING)
    by_name = {
        "AutoContrast": ImageOps.autocontrast,
        "Equalize": ImageOps.equalize,
        "Invert": ImageOps.invert,
        "Posterize": lambda x, bits: ImageOps.posterize(x, int(bits)),
        "Solarize": lambda x, threshold: ImageOps.solarize(x, int(threshold)),
        "Color": lambda x, factor: ImageEnhance.Color(x).enhance(factor),
        "Contrast": lambda x, factor: ImageEnhance.Contrast(x).enhance(factor),
        "Brightness": lambda x, factor: ImageEnhance.Brightness(x).enhance(factor),
        "Sharpness": lambda x, factor: ImageEnhance.Sharpness(x).enhance(factor),
    }
    original, compared = Image.open(path), 0
    for image, words in found:
        operations = [line.split() for line in words]
        if len(operations) > 1 or any(name not in by_name for name, *_ in operations):
            continue
        expected = original
        for name, *arguments in operations:
            expected = by_name[name](expected, *map(float, arguments))
        difference = shown(image, PREPROCESSING).astype(int) - np.asarray(expected)
        assert np.abs(difference).max() <= 2, words
        compared += bool(operations)
    assert compared >= 5
    assert {len(words) for _, words in found} == {0, 1, 2}


def test_variants_depend_on_the_seed_and_the_number_alone(path):
    plain = AugmentationConfig(auto_augment="none")
    several, two = (
        variants(path, count, 3, plain, preprocessing=PREPROCESSING) for count in (3, 2)
    )
    assert [words for _, words in two] == [[], []]
    assert len({image.tobytes() for image, _ in several}) == 3
    for (one, _), (other, _) in zip(several, two, strict=False):
        np.testing.assert_array_equal(one, other)


def test_what_is_shown_was_there_before_normalization(rng):
    values = rng.integers(0, 256, (8, 8, 3)).astype("uint8")
    np.testing.assert_array_equal(shown(normalize(values, PREPROCESSING), PREPROCESSING), values)


def test_program(path, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    flags = ["--auto_augment=none", "--count=3", "--image_size=16", "-o", str(sheet)]
    assert main([path, *flags]) == 0
    assert "3 variants" in capsys.readouterr().err
    found = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    assert found.std() > 10
    assert main([path, *flags, "--seed=5"]) == 0
    other = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    assert found.shape == other.shape
    assert np.abs(found - other).max() > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one image"),
        (["--count=0", "{path}"], "--count"),
        (["{path}.gone"], "can be read"),
        (["--auto_augment=rand-z1", "{path}"], "auto_augment"),
    ],
)
def test_bad_input(path, arguments, message):
    with refused(message):
        main([word.format(path=path) for word in arguments])
