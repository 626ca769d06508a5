"""The bundled model in 8 bits: what becomes of its layers, its answers and its size."""

import functools

import numpy as np
import onnx
import pytest

from tests.support.conversions import shared_translations
from tests.support.quantized import BACKENDS, activations, graph_of, weight_scales
from tools.conversion.converter import convert
from tools.conversion.protocol import Calibration, Examples
from tools.conversion.request import ConversionRequest
from tools.inference.runner import load
from tools.speech.synthesis import synthesize


@pytest.fixture(scope="module")
def bundled(project):
    return project / "conformer" / "pretrained" / "digits"


@pytest.fixture(scope="module")
def native(bundled):
    """Runs the SavedModel."""
    return load(bundled)


@functools.cache
def spoken(*texts):
    """One batch for each text."""
    batches = []
    for number, text in enumerate(texts):
        waveform = synthesize(text, voice=f"en-us+m{number % 6 + 1}")
        lengths = np.array([len(waveform)], np.int32)
        batches.append({"waveforms": waveform[None].astype(np.float32), "lengths": lengths})
    return batches


@pytest.fixture(scope="module")
def converted(bundled, tmp_path_factory):
    """Converts for a backend and a precision, each once, all from one translation to ONNX."""
    calibration = Calibration("voices", 2, True, lambda: Examples(spoken("one two six", "nine")))

    @functools.cache
    def make(backend, precision="int8_fp32"):
        directory = tmp_path_factory.mktemp("artifact") / "converted"
        convert(bundled, directory, ConversionRequest(backend, precision), calibration)
        return directory

    with shared_translations():
        yield make


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def test_weights_and_activations_become_bytes_and_the_front_end_does_not(converted, backend):
    names = activations(backend, converted(backend), "listen")
    assert len(names) > 50
    scales = weight_scales(backend, converted(backend), "listen")
    assert len(scales) > 40
    assert [count for _, count in scales].count(1) > 35
    assert sum(size for size, _ in scales) > 1.3e6
    assert any("encoder" in name for name in names)
    assert not any("features" in name for name in names)


def heard(runner, inputs):
    """The valid frames of a model; a converted one may have padded what it hears."""
    outputs = runner.run(inputs, "listen")
    (frames,) = outputs["encoded_lengths"]
    assert not outputs["encoded"][:, frames:].any()
    return outputs["encoded"][:, :frames]


def test_it_answers_much_as_in_float_from_less_than_two_fifths_of_the_bytes(
    converted, backend, native
):
    default, floats = converted(backend), converted(backend, "fp32")
    sizes = [sum(path.stat().st_size for path in folder.iterdir()) for folder in (default, floats)]
    assert sizes[0] <= 0.4 * sizes[1]
    (inputs,) = spoken("three nine one six")
    runners = native, load(floats), load(default)
    expected, exact, found = (heard(runner, inputs) for runner in runners)
    np.testing.assert_allclose(exact, expected, atol=1e-3)
    error = np.abs(found - expected).mean() / np.abs(expected).mean()
    assert 0.001 < error < 0.2


def test_small_parts_store_bytes_and_compute_in_float(converted, native):
    directory = converted("openvino")
    stored = [tensor.data_type for tensor in graph_of(directory, "predict").initializer]
    assert onnx.TensorProto.INT8 in stored
    inputs = {"tokens": np.array([[3], [5]], np.int32), "states": np.zeros((2, 2, 128), "f")}
    expected = native.run(inputs, "predict")["predicted"]
    found = load(directory).run(inputs, "predict")["predicted"]
    np.testing.assert_allclose(found, expected, atol=0.02)
