"""A small model for the unit tests of the vision Conformer."""

import keras
import numpy as np
import pytest
from PIL import Image

import vision
import vision.model
from vision.convolution import BatchNormalization

SIZES = {
    "patch_size": 16,
    "channel_ratio": 0.25,
    "hidden_dim": 32,
    "num_heads": 2,
    "num_layers": 3,
}

IMAGE_SIZE = 64


@pytest.fixture(scope="session")
def build_small():
    """Builds a model of three narrow layers over ten classes, with options."""

    def build(seed=1, num_classes=10, **options):
        keras.utils.set_random_seed(seed)
        return vision.build_model(SIZES, num_classes, **options)

    return build


@pytest.fixture
def small_model(build_small):
    """Returns a generator with the same numbers in every test."""
    return build_small()


@pytest.fixture(scope="session")
def tiny():
    """Returns Conformer-tiny with initial weights; tests must not change it."""
    keras.utils.set_random_seed(1)
    return vision.build_model("conformer_tiny", drop_path_rate=0.1)


@pytest.fixture
def images(rng):
    """Returns three random images, `[3, 32, 48, 3]`."""
    return rng.standard_normal((3, 32, 48, 3)).astype("float32")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Writes train and val of an ImageFolder: noise around one color for each class."""

    def write(classes=("blue", "red"), count=5, side=40, root=None):
        root = root or tmp_path_factory.mktemp("images")
        rng = np.random.default_rng(0)
        for split in ("train", "val"):
            for number, name in enumerate(classes):
                (root / split / name).mkdir(parents=True)
                for index in range(count):
                    pixels = rng.integers(0, 120, (side, side, 3), "uint8")
                    pixels[..., number % 3] += 130
                    Image.fromarray(pixels).save(root / split / name / f"{index}.png")
        return root

    return write


@pytest.fixture(scope="session")
def small_architecture():
    """Registers a model of three narrow layers under a name, for programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vision.model.ARCHITECTURES, "conformer_test", SIZES)
        yield "conformer_test"


@pytest.fixture(scope="session")
def calibrated(build_small):
    """Returns a model whose predictions differ from image to image."""
    model = build_small()
    rng = np.random.default_rng(3)
    for variable in model.weights:
        if "moving" not in variable.path and len(variable.shape) > 1:
            variable.assign(variable.numpy() + rng.normal(0, 0.05, variable.shape))
    norms = [x for x in model._flatten_layers() if isinstance(x, BatchNormalization)]
    momentum = {norm: norm.momentum for norm in norms}
    for norm in norms:
        norm.momentum = 0.0  # so that the statistics are those of one batch
    model(rng.standard_normal((32, IMAGE_SIZE, IMAGE_SIZE, 3)).astype("float32"), training=True)
    for norm in norms:
        norm.momentum = momentum[norm]
    return model


@pytest.fixture
def of_small(monkeypatch, calibrated):
    """Registers the sizes of `calibrated` as `small`; returns the flags for programs."""
    sizes = "patch_size channel_ratio hidden_dim num_heads num_layers".split()
    sizes = {name: getattr(calibrated, name) for name in sizes}
    monkeypatch.setitem(vision.model.ARCHITECTURES, "small", sizes)
    return ["--arch=small", "--num_classes=10", f"--image_size={IMAGE_SIZE}"]
