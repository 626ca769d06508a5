"""What all tests share: quiet TensorFlow, and the recordings that may lie beside the project."""

import gc
import os
from pathlib import Path

import pytest

# Before the first import of TensorFlow; at 2 it still prints errors about CUDA libraries.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

PROJECT = Path(__file__).resolve().parent.parent

# Graphs of TensorFlow are many objects that live long: looking through them for cycles as often as
# Python does by default takes 7 % of the suite's time.
gc.set_threshold(50_000, 20, 100)


# Files that take the longest, the longest first. Workers take whole files in this order, so that
# none begins a long one when the others are about to end.
LONGEST = (
    "tests/integration/test_vision_training.py",
    "tests/integration/test_training.py",
    "tests/integration/test_infer.py",
)


def pytest_collection_modifyitems(items):
    """Puts the tests of the longest files first."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Gives all workers of a run one cache apart from the user's: a model is converted once."""
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(run / "cache"))
        yield


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings and broken files; a test that wants it is skipped without."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data: expected ../shared/data beside the project")
    return folder


@pytest.fixture
def rng():
    """A generator with the same numbers in every test."""
    import numpy as np

    return np.random.default_rng(0)
