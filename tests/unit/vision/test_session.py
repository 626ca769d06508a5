"""Tests sessions of classifiers in Python: kinds of images, batches, errors."""

import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.support.errors import refused
from vision import session as session_module
from vision.classes import Classes
from vision.config import PreprocessingConfig
from vision.session import ImageSession

SIDE = 8
NAMES = ["red", "green", "blue"]
PREPROCESSING = PreprocessingConfig(
    image_size=SIDE, crop_pct=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)


class Colors:
    """A model whose logits are eight times the mean of each channel.

    Attributes:
        batches: sizes of the batches.
    """

    mode, backend, precision, files = "jit", "none", "fp32", ()
    signatures = {"serving_default": ()}  # noqa: RUF012 - a stand-in
    pipeline = {"layout": "NHWC", "input": "images"}  # noqa: RUF012 - a stand-in

    def __init__(self):
        self.batches = []

    def run(self, inputs, signature="serving_default"):
        self.batches.append(len(inputs["images"]))
        self.images = inputs["images"]  # without a copy, as in a runtime
        time.sleep(0.001)  # lets other threads run
        return {"logits": 8 * self.images.mean(axis=(1, 2))}


@pytest.fixture
def runner():
    return Colors()


@pytest.fixture
def session(runner):
    return ImageSession(runner, PREPROCESSING, Classes(NAMES), batch_size=2)


def picture(red, green, blue):
    return np.full((12, 16, 3), (red, green, blue), "uint8")


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


def test_an_image_is_the_same_whatever_it_comes_in(session, tmp_path):
    array = picture(51, 255, 102)
    (tmp_path / "a.png").write_bytes(png(array))
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), png(array), io.BytesIO(png(array)), array]
    with (tmp_path / "a.png").open("rb") as file:
        found = [session.classify(form, top_k=3) for form in [*forms, file]]
    assert all(one == found[0] for one in found)
    assert [(one.index, one.name) for one in found[0]] == [(1, "green"), (2, "blue"), (0, "red")]
    powers = np.exp([8.0, 3.2, 1.6])
    probabilities = [one.probability for one in found[0]]
    np.testing.assert_allclose(probabilities, powers / powers.sum(), rtol=1e-5)


def test_a_list_is_run_in_batches_and_keeps_its_order(session, runner):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)]
    found = session.classify([picture(*color) for color in colors])
    assert [[one.name for one in best] for best in found] == [
        ["red"], ["green"], ["blue"], ["green"], ["red"],
    ]  # fmt: skip
    assert runner.batches == [2, 2, 1]


def test_a_list_is_read_by_threads(session, monkeypatch):
    both, readers, real = threading.Barrier(2, timeout=60), set(), session_module.read_image

    def read_image(source, preprocessing):
        readers.add(threading.current_thread())
        both.wait()  # continues only if two threads are running
        return real(source, preprocessing)

    monkeypatch.setattr(session_module, "read_image", read_image)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    images = [picture(255, 0, 0), png(picture(0, 0, 255))] * 3
    assert [best[0].name for best in session.classify(images)] == ["red", "blue"] * 3
    assert len(readers) == 2 and threading.main_thread() not in readers


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        ([], {}, "Received: an empty list"),
        ("nowhere.png", {}, "nowhere.png: no such file"),
        (b"no image", {}, "not an image"),
        (np.zeros((4, 4), "uint8"), {}, "expected uint8 [H, W, 3]"),
        ([picture(1, 2, 3), b"x"], {}, "Image 2 of the list: Expected an image"),
        (io.BytesIO(), {}, "rewind it with seek(0)"),
        (Image.new("RGB", (4, 4)), {}, "convert it with numpy.asarray"),
        (np.zeros((4, 4, 3)), {}, "received float64"),
        ([picture(1, 2, 3), np.zeros((0, 4, 3), "uint8")], {}, "received uint8 [0, 4, 3]"),
        (["nowhere.png", b"no image", "gone.png"], {}, "nowhere.png: no such file"),
        (picture(1, 2, 3), {"top_k": 0}, "top_k >= 1"),
    ],
)
def test_bad_images_are_refused_and_the_session_still_works(session, image, options, message):
    with refused(message):
        session.classify(image, **options)
    assert session.classify(picture(255, 0, 0))[0].name == "red"


def test_threads_share_a_session(session):
    def work(number):
        image = np.zeros((12, 16, 3), "uint8")
        image[..., number % 3] = 255
        return session.classify([image] * 3)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(40)))
    for number, images in enumerate(found):
        assert [[one.name for one in best] for best in images] == [[NAMES[number % 3]]] * 3


def test_a_closed_session_says_so(session):
    with session:
        pass
    with refused("Received: a closed one"):
        session.classify("nowhere.png")


@pytest.mark.parametrize("top_k", ["5", 2.0, True, None])
def test_a_number_of_classes_that_is_no_integer_is_refused(session, top_k):
    with refused(f"an integer for top_k. Received: {top_k!r}"):
        session.classify(picture(9, 0, 0), top_k=top_k)
