"""Tensors from files: padded to fixed sizes before the clock starts, refused if they do not fit."""

import json
import shutil
import time

import numpy as np
import pytest

from tests.support.errors import refused
from tools.conversion.converter import convert
from tools.conversion.protocol import TensorSpec
from tools.conversion.request import ConversionRequest
from tools.inference.raw_tensors import check_preparation, run_timed
from tools.inference.runner import load
from tools.inference.session import Session


class Recorder:
    """A runner that keeps what it gets and takes three seconds for it."""

    def __init__(self, clock, error=None):
        self.signatures = {
            "score": (
                TensorSpec("lengths", "int32", (4,)),
                TensorSpec("names", "string", (None,)),
                TensorSpec("waveforms", "float32", (4, (2, 5))),
            )
        }
        self.clock, self.error, self.calls = clock, error, []

    def run(self, inputs, signature):
        self.calls.append((inputs, signature))
        self.clock[0] += 3.0
        if self.error:
            raise self.error
        return {"sums": inputs["waveforms"].sum(axis=1)}


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def inputs(rows=2, samples=3, dtype="float32"):
    return {
        "waveforms": np.ones((rows, samples), dtype),
        "lengths": np.full(rows, samples, np.int32),
        "names": np.array([b"a"] * rows, object),
    }


def test_a_batch_is_padded_to_what_is_fixed_and_timed(clock):
    runner, seconds = Recorder(clock), [7.0]
    outputs = run_timed(runner, "score", inputs(), seconds)
    ((given, signature),) = runner.calls
    assert signature == "score"
    assert given["waveforms"].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert given["lengths"].tolist() == [3, 3, 0, 0]
    assert outputs["sums"].tolist() == [3, 3, 0, 0]
    assert seconds == [7.0, 3.0]


@pytest.fixture(scope="module", params=[True, False], ids=["masked", "unmasked"])
def masked(native, request, tmp_path_factory):
    """Whether padding keeps the result, and a converted model of 2 rows and 10 to 40 samples."""
    folder = tmp_path_factory.mktemp("converted")
    source = shutil.copytree(native, folder / "source")
    path = source / "assets" / "pipeline.json"
    pipeline = json.loads(path.read_text())
    pipeline["convert"]["serving_default"]["paddable"] = request.param
    path.write_text(json.dumps(pipeline))
    ranges = {"waveforms": ((2, 2), (10, 40))}
    convert(source, folder / "model", ConversionRequest("openvino", dim_range=ranges))
    with Session(load(folder / "model")) as session:
        yield request.param, session


def of_samples(rows, samples, dtype="float32"):
    rng = np.random.default_rng(samples)
    waveforms = rng.standard_normal((rows, samples)).astype(dtype)
    # The model's convolution over 5 samples reaches 2 samples behind the length.
    return {"waveforms": waveforms, "lengths": np.full(rows, samples - 2, np.int32)}


def test_a_length_below_the_range_is_padded_where_this_keeps_the_result(native, masked):
    is_paddable, session = masked
    given, seconds = of_samples(2, 7), []
    if not is_paddable:
        with refused("waveforms of shape [2, 10:40]. Received: [2, 7]. Convert again with a"):
            run_timed(session, "serving_default", given, seconds)
        assert seconds == []
        return
    outputs = run_timed(session, "serving_default", given, seconds)
    expected = load(native).run(given)
    np.testing.assert_allclose(outputs["sums"], expected["sums"], rtol=1e-5, atol=1e-5)
    assert len(seconds) == 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (of_samples(2, 41), "waveforms of shape [2, 10:40]. Received: [2, 41]"),
        (of_samples(3, 20), "waveforms of shape [2, 10:40]. Received: [3, 20]"),
        (of_samples(2, 20, "float64"), "waveforms of type float32"),
    ],
)
def test_what_the_model_does_not_take_is_refused(masked, given, named):
    seconds = []
    with refused(named):
        run_timed(masked[1], "serving_default", given, seconds)
    assert seconds == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("bad\n  shape"),
        ValueError("bad shape"),
    ],
)
def test_what_a_runtime_cannot_run_is_one_line(clock, error):
    seconds = []
    with refused("bad shape"):
        run_timed(Recorder(clock, error), "score", inputs(), seconds)
    assert seconds == []


MODEL = {"layout": "NHWC", "preprocessing": {"image_size": 64, "mean": [0.5, 0.5]}, "classes": None}


@pytest.mark.parametrize(
    ("made_by", "message"),
    [
        (None, ""),
        ({"layout": "NHWC", "preprocessing": {"mean": [0.5, 0.5]}}, ""),
        ({"unknown": 1, "preprocessing": {"unknown": 2}}, ""),  # a model may tell less
        ({"layout": "NCHW"}, "made with layout NHWC, as the model takes them. Received: layout NC"),
        ({"preprocessing": {"image_size": 64, "mean": [0, 0.5]}}, "preprocessing.mean [0.5, 0.5]"),
        ([1], "a readable"),
        ("{", "a readable"),
    ],
)
def test_tensors_tell_how_they_were_made(made_by, message, tmp_path):
    if made_by is not None:
        text = made_by if isinstance(made_by, str) else json.dumps(made_by)
        (tmp_path / "preparation.json").write_text(text)
    if not message:
        check_preparation(tmp_path, MODEL)
        return
    with refused(message):
        check_preparation(tmp_path, MODEL)
