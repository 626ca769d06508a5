"""Layers kept in float by name, where a name is not enough."""

import json

import keras
import numpy as np
import onnx
import openvino
import pytest
import tensorflow as tf

from tests.support.saved_models import save_model
from tools.conversion.converter import convert
from tools.conversion.protocol import Calibration, Examples
from tools.conversion.quantization import ignored_nodes
from tools.conversion.request import ConversionRequest, Quantization


def num_quantized_activations(folder):
    path = folder / "serving_default.xml"
    if path.exists():
        operators = openvino.Core().read_model(path).get_ops()
        return [node.get_type_name() for node in operators].count("FakeQuantize")
    graph = onnx.load(path.with_suffix(".onnx")).graph
    constants = {tensor.name for tensor in graph.initializer}
    return sum(x.op_type == "QuantizeLinear" and x.input[0] not in constants for x in graph.node)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_a_layer_that_makes_an_output_is_kept_in_float(tmp_path, rng, backend, offset):
    """It may be called like the output, with a bias of zeros or another one."""
    module, directory = tf.Module(), tmp_path / "native"
    body, head = (keras.layers.Dense(8, name=name) for name in ("body", "head"))
    for layer in (body, head):
        layer.build((None, 8))
        layer.bias.assign(offset * rng.standard_normal(8))
    module.weights = [variable.value for layer in (body, head) for variable in layer.weights]
    spec = tf.TensorSpec((None, 8), tf.float32, "images")
    answer = tf.function(lambda images: {"scores": head(tf.nn.relu(body(images)))}, [spec])
    save_model(directory, module, {"serving_default": answer})
    described = {"serving_default": {"dim_range": {}, "keep_in_float": ["head"]}}
    pipeline = directory / "assets" / "pipeline.json"
    pipeline.write_text(json.dumps({"family": "toy", "convert": described}))
    batches = [{"images": rng.standard_normal((4, 8)).astype(np.float32)} for _ in range(4)]
    counts = {}
    for layers, asked in ((["head"], ()), ([], ()), (["head"], ("-head",))):
        described["serving_default"]["keep_in_float"] = layers
        pipeline.write_text(json.dumps({"family": "toy", "convert": described}))
        quantization = Quantization(keep_in_float=asked)
        request = ConversionRequest(backend, "int8_fp32", quantization=quantization)
        calibration = Calibration("made up", 4, True, lambda: Examples(batches))
        folder = tmp_path / f"converted_{len(layers)}_{len(asked)}"
        convert(directory, folder, request, calibration)
        counts[*layers, *asked] = num_quantized_activations(folder)
    assert counts == {("head",): 1, (): 2, ("head", "-head"): 2}


def test_the_last_word_on_a_layer_counts():
    names = ["encoder/block_0/x", "encoder/block_1/x", "head/x"]
    layers = ["encoder", "head", "-encoder/block_1"]
    assert ignored_nodes(names, layers) == ["encoder/block_0/x", "head/x"]
    assert ignored_nodes(names, [*layers, "block_1"]) == names
