"""What a session refuses of plain tensors, in the same words whatever runs the model."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tests.support.saved_models import save_model
from tools.conversion.converter import convert
from tools.conversion.request import ConversionRequest
from tools.inference.runner import load
from tools.inference.session import Session

RUNTIMES = ("tensorflow", "openvino", "onnxruntime")
RANGE = {"waveforms": ((1, 4), (10, 40))}
SHAPES = {"tensorflow": "[?, ?]"}  # of waveforms; those of converted models are in their range


def sound(rows=2, samples=20):
    waveforms = np.linspace(-1, 1, rows * samples, dtype="float32").reshape(rows, samples)
    return {"waveforms": waveforms, "lengths": np.full(rows, samples - 5, np.int32)}


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture(scope="module")
def session(native, runtime, tmp_path_factory):
    """A session of one model in every runtime; it stays open for all tests."""
    directory = native
    if runtime != "tensorflow":
        directory = tmp_path_factory.mktemp(runtime) / "converted"
        convert(native, directory, ConversionRequest(runtime, dim_range=RANGE))
    with Session(load(directory)) as opened:
        assert opened.runner.backend == runtime
        yield opened


def changed(**arrays):
    return {**sound(), **arrays}


NAMES = "Expected the inputs lengths, waveforms."


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"waveforms": sound()["waveforms"]}, f"{NAMES} Received: waveforms."),
        (changed(more=np.zeros(2)), f"{NAMES} Received: waveforms, lengths, more."),
        ({}, f"{NAMES} Received: none."),
        ({1: np.zeros(2), None: np.zeros(2)}, f"{NAMES} Received: 1, None."),
        (None, f"{NAMES} Received: NoneType."),
        (sound()["waveforms"], f"{NAMES} Received: ndarray."),
        (["lengths", "waveforms"], f"{NAMES} Received: list."),
        (changed(waveforms=[[0.0] * 20] * 2), "waveforms as an array. Received: list."),
        (changed(lengths=20), "lengths as an array. Received: int."),
        (changed(waveforms=None), "waveforms as an array. Received: NoneType."),
        (changed(waveforms=np.zeros(20, "f")), "of shape SHAPE. Received: [20]. Change the input."),
        (changed(waveforms=np.zeros((2, 20, 1), "f")), "of shape SHAPE. Received: [2, 20, 1]."),
        (changed(waveforms=np.float32(0)), "waveforms of shape SHAPE. Received: []."),
        (changed(waveforms=np.zeros((2, 20))), "of type float32. Received: float64. Cast it."),
        (changed(waveforms=np.zeros((2, 20), "complex64")), "of type float32. Received: complex"),
        (changed(waveforms=np.zeros((2, 20), object)), "of type float32. Received: object."),
        (changed(waveforms=np.full((2, 20), "a")), "of type float32. Received: <U1."),
        (changed(lengths=np.full(2, 20)), "lengths of type int32. Received: int64."),
        (changed(lengths=np.full(2, 20, "uint32")), "lengths of type int32. Received: uint32."),
        (
            changed(lengths=np.full(3, 20, "int32")),
            "Expected inputs of one batch. Received: waveforms [2, 20], lengths [3]. Give as many",
        ),
        (
            changed(lengths=np.array([20, 21], "int32")),
            "lengths from 0 to 20, the size of waveforms. Received: 21. Correct the lengths.",
        ),
        (
            changed(lengths=np.array([-1, 20], "int32")),
            "lengths from 0 to 20, the size of waveform",
        ),
    ],
)
def test_wrong_tensors_are_refused_and_the_session_still_works(session, runtime, inputs, message):
    with refused(message.replace("SHAPE", SHAPES.get(runtime, "[1:4, 10:40]"))):
        session.run(inputs)
    assert session.run(sound())["doubled"].tolist() == [30, 30]


@pytest.mark.parametrize("signature", ["serve_bytes", "", None, 3])
def test_an_unknown_signature_is_refused(session, signature):
    with refused(f"a signature among serving_default. Received: {signature}. Name one of them."):
        session.run(sound(), signature)
    assert session.run(sound(), "serving_default")["doubled"].tolist() == [30, 30]


@pytest.mark.parametrize(("rows", "samples"), [(5, 20), (2, 9), (2, 41)])
def test_sizes_outside_of_the_converted_range_are_refused(session, runtime, rows, samples):
    if runtime == "tensorflow":
        assert session.run(sound(rows, samples))["doubled"].shape == (rows,)
        return
    with refused(match=rf"waveforms of shape \[1:4, 10:40\].*\[{rows}, {samples}\].*--dim_range"):
        session.run(sound(rows, samples))
    assert session.run(sound())["doubled"].tolist() == [30, 30]


def test_what_holds_an_array_is_taken_as_one(session):
    expected = session.run(sound())
    tensors = {name: tf.constant(value) for name, value in sound().items()}
    turned = {"lengths": sound()["lengths"], "waveforms": np.asfortranarray(sound()["waveforms"])}
    for inputs in (tensors, turned):
        found = session.run(inputs)
        np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-6)


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
def test_smaller_than_a_fixed_size_stays_legal(native, runtime, tmp_path):
    fixed = {"waveforms": ((3, 3), (40, 40))}
    convert(native, tmp_path / "fixed", ConversionRequest(runtime, dim_range=fixed))
    with Session(load(tmp_path / "fixed")) as opened, Session(load(native)) as eager:
        found, expected = opened.run(sound()), eager.run(sound())
        np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-5, atol=1e-5)
        for inputs in (changed(lengths=np.full(3, 20, "int32")), sound(4, 20), sound(2, 41)):
            with refused():
                opened.run(inputs)
        assert opened.run(sound(1, 30))["doubled"].tolist() == [50]


def test_a_size_that_the_model_itself_fixes_is_exact_and_texts_are_texts(tmp_path):
    @tf.function(input_signature=[
        tf.TensorSpec([None, 3], tf.float32, "points"),
        tf.TensorSpec([None], tf.string, "names"),
        tf.TensorSpec([], tf.bool, "loud"),
    ])  # fmt: skip
    def serving_default(points, names, loud):
        return {"sums": tf.reduce_sum(points, 1), "names": names, "loud": loud}

    save_model(tmp_path / "model", tf.Module(), {"serving_default": serving_default})
    with Session(load(tmp_path / "model")) as opened:
        good = {
            "points": np.ones((2, 3), "float32"),
            "names": np.array([b"a", "b"], object),
            "loud": np.bool_(True),
        }
        for names in (good["names"], np.array([b"a", b"b"]), np.array(["a", "b"])):
            assert opened.run({**good, "names": names})["names"].tolist() == [b"a", b"b"]
        for name, value, message in (
            ("points", np.ones((2, 2), "float32"), "points of shape [?, 3]. Received: [2, 2]."),
            ("names", np.array([b"a", 3], object), "names of type string. Received: object."),
            ("names", np.array([1, 2]), "names of type string. Received: int64."),
            ("loud", np.array([True]), "loud of shape []. Received: [1]."),
            ("loud", True, "loud as an array. Received: bool."),
        ):
            with refused(message):
                opened.run({**good, name: value})
        assert opened.run(good)["sums"].tolist() == [3, 3]


def test_a_closed_session_says_so_before_anything_else(native):
    session = Session(load(native))
    session.close()
    with refused("Received: a closed one"):
        session.run({}, "nothing")
