"""Tests the syntax of RandAugment policies and the ranges of the recipe."""

import math

import pytest

from tests.support.errors import refused
from tools.config.loader import load
from vision.augmentation_config import AugmentationConfig, RandAugment, parse_rand_augment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rand", RandAugment()),
        (
            "rand-m9-mstd0.5-inc1",
            RandAugment(magnitude=9, magnitude_std=0.5, increasing=True),
        ),
        ("rand-n3-m5-p1", RandAugment(magnitude=5, num_operations=3, probability=1)),
        ("rand-mstd1-w0", RandAugment(magnitude_std=1, weighted=True)),
        ("rand-inc0-mmax15-m12", RandAugment(magnitude=12, max_magnitude=15)),
        ("rand-m6-mstd101", RandAugment(magnitude=6, magnitude_std=math.inf)),
        ("rand-m6-mstdinf", RandAugment(magnitude=6, magnitude_std=math.inf)),
        ("none", None),
        ("None", None),
        ("", None),
    ],
)
def test_policies(text, expected):
    assert parse_rand_augment(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "rand-x3",
        "rand-m",
        "rand-m9-m8",
        "rand-9",
        "rand-m-9",
        "rand-n0",
        "rand-n2.5",
        "rand-n99",
        "rand-p1.5",
        "rand-w1",
        "rand-inc2",
        "rand-minf",
        "rand-mmax0",
        "rand-",
        "augmix-m5",
        "original",
        "none-m9",
    ],
)
def test_bad_policies(text):
    with refused("auto_augment"):
        load(AugmentationConfig, None, {"auto_augment": text})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hflip", -0.1),
        ("re_prob", 1.1),
        ("mixup", -1),
        ("cutmix", math.inf),
        ("color_jitter", math.nan),
        ("label_smoothing", 2),
        ("min_crop", 0),
        ("re_count", 0),
        ("repeated_augmentation", 0),
        ("re_mode", "blur"),
        ("mixup_mode", "half"),
        ("aa_interpolation", "lanczos"),
    ],
)
def test_bad_values(key, value):
    with refused(key):
        load(AugmentationConfig, None, {key: str(value)})


def test_defaults_are_the_recipe():
    config = load(AugmentationConfig, None)
    assert (config.mixup, config.cutmix, config.re_prob, config.min_crop) == (0.8, 1.0, 0.25, 0.08)
    assert config.mixes
    assert not load(AugmentationConfig, None, {"mixup": "0", "cutmix": "0"}).mixes
    assert not load(AugmentationConfig, None, {"mixup_prob": "0"}).mixes
