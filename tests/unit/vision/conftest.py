"""A small model for the unit tests of the vision Conformer."""

import keras
import pytest

import vision

SIZES = {
    "patch_size": 16,
    "channel_ratio": 0.25,
    "hidden_dim": 32,
    "num_heads": 2,
    "num_layers": 3,
}


@pytest.fixture(scope="session")
def build_small():
    """Builds a model of three narrow layers over ten classes, with options."""

    def build(seed=1, num_classes=10, **options):
        keras.utils.set_random_seed(seed)
        return vision.build_model(SIZES, num_classes, **options)

    return build


@pytest.fixture
def small_model(build_small):
    """The same in every test."""
    return build_small()


@pytest.fixture(scope="session")
def tiny():
    """Conformer-tiny as it starts; no test changes it."""
    keras.utils.set_random_seed(1)
    return vision.build_model("conformer_tiny", drop_path_rate=0.1)


@pytest.fixture
def images(rng):
    """Three made-up images, `[3, 32, 48, 3]`."""
    return rng.standard_normal((3, 32, 48, 3)).astype("float32")
