"""What is spelled out becomes one operator, where that is what it is, and keeps the values."""

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import tensorflow as tf

from tools.conversion.rewrites.cleaning import clean
from tools.conversion.signature import to_onnx

GROUPS, WIDTH, TAPS = 3, 6, 4


def split_convolution(kernels, bias, strides=1, order=None, axis=-1):
    """What a model spells out over `x [B, T, 6]`, as a picture of one row."""

    def function(x):
        parts = tf.split(tf.pad(x[:, None], [[0, 0], [0, 0], [2, 1], [0, 0]]), GROUPS, axis=-1)
        parts = parts if order is None else [parts[number] for number in order]
        y = [
            tf.nn.conv2d(part, kernel[None], strides, "VALID")
            for part, kernel in zip(parts, kernels, strict=True)
        ]
        return {"y": tf.nn.gelu(tf.concat(y, axis) + bias, approximate=False)}

    spec = tf.TensorSpec([None, None, WIDTH], tf.float32, "x")
    return tf.function(function, input_signature=[spec]).get_concrete_function()


def onnxruntime_result(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {"x": x})[0]


def openvino_result(model, x):
    network = openvino.Core().read_model(model.SerializeToString(), b"")
    (found,) = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
        x
    ).values()
    return found


@pytest.fixture
def kernels(rng):
    return rng.standard_normal((GROUPS, TAPS, WIDTH // GROUPS, 5)).astype(np.float32)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("strides", [1, 2])
def test_parts_of_a_split_become_groups(rng, kernels, strides, with_bias):
    bias = rng.standard_normal(GROUPS * 5).astype(np.float32) if with_bias else 0.0
    function = split_convolution(kernels, bias, strides)
    x = rng.standard_normal((2, 7, WIDTH)).astype(np.float32)
    model = to_onnx(function, "toy")
    before = onnxruntime_result(model, x)
    assert clean(model)["grouped_convolution"] == 1
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == 1
    assert not {"Split", "Concat"} & set(operators)
    (convolution,) = (node for node in model.graph.node if node.op_type == "Conv")
    assert {x.name: x.i for x in convolution.attribute}["group"] == GROUPS
    for run in (onnxruntime_result, openvino_result):
        np.testing.assert_allclose(run(model, x), before, atol=1e-5)
    np.testing.assert_allclose(before, function(tf.constant(x))["y"], atol=1e-5)


def untouched(function, x):
    model = to_onnx(function, "toy")
    before = onnxruntime_result(model, x)
    assert clean(model)["grouped_convolution"] == 0
    assert [node.op_type for node in model.graph.node].count("Conv") == GROUPS
    np.testing.assert_allclose(onnxruntime_result(model, x), before, atol=1e-6)


def test_parts_in_another_order_stay(rng, kernels):
    x = rng.standard_normal((2, 7, WIDTH)).astype(np.float32)
    untouched(split_convolution(kernels, 0.5, order=(1, 0, 2)), x)


def test_parts_behind_one_another_stay(rng, kernels):
    x = rng.standard_normal((2, 7, WIDTH)).astype(np.float32)
    untouched(split_convolution(kernels, 0.5, axis=2), x)


def test_unequal_convolutions_stay(rng, kernels):
    x = rng.standard_normal((2, 7, WIDTH)).astype(np.float32)
    kernels = [*kernels[:2], kernels[2, :, :, :3]]
    untouched(split_convolution(kernels, 0.5), x)


def test_a_part_that_is_read_elsewhere_is_no_gain(rng, kernels):
    def function(x):
        parts = tf.split(x[:, None], GROUPS, axis=-1)
        y = [tf.nn.conv2d(p, k[None], 1, "SAME") for p, k in zip(parts, kernels, strict=True)]
        return {"y": tf.concat(y, -1) + tf.tile(y[0], [1, 1, 1, GROUPS])}

    spec = tf.TensorSpec([None, None, WIDTH], tf.float32, "x")
    concrete = tf.function(function, input_signature=[spec]).get_concrete_function()
    untouched(concrete, rng.standard_normal((2, 7, WIDTH)).astype(np.float32))


def test_groups_with_biases_of_their_own_keep_them(rng):
    """A graph written by hand: another exporter puts biases into its convolutions."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kernels = rng.standard_normal((2, 3, 2, 4)).astype(np.float32)
    biases = rng.standard_normal((2, 3)).astype(np.float32)
    constants = [
        numpy_helper.from_array(value, f"{name}{number}")
        for name, values in (("k", kernels), ("b", biases))
        for number, value in enumerate(values)
    ]
    nodes = [
        helper.make_node("Split", ["x"], ["x0", "x1"], "split", axis=1, num_outputs=2),
        *(
            helper.make_node("Conv", [f"x{n}", f"k{n}", f"b{n}"], [f"y{n}"], f"c{n}", pads=[1, 2])
            for n in range(2)
        ),
        helper.make_node("Concat", ["y0", "y1"], ["y"], "concat", axis=1),
    ]
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", float32, ["b", 4, "t"])],
        [helper.make_tensor_value_info("y", float32, ["b", 6, "u"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = rng.standard_normal((2, 4, 9)).astype(np.float32)
    before = onnxruntime_result(model, x)
    assert clean(model)["grouped_convolution"] == 1
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    np.testing.assert_allclose(onnxruntime_result(model, x), before, atol=1e-5)


def activation(factor, widened):
    """GELU as models write it, for a factor of a half."""

    def function(x):
        one = tf.ones([1, 1, 1]) if widened else 1.0
        return {"y": factor * x * (one + tf.math.erf(x / np.float32(np.sqrt(2.0))))}

    spec = tf.TensorSpec([None, None, WIDTH], tf.float32, "x")
    return tf.function(function, input_signature=[spec]).get_concrete_function()


@pytest.mark.parametrize("widened", [False, True])
@pytest.mark.parametrize(("factor", "count"), [(0.5, 1), (0.4, 0)])
def test_onnxruntime_fuses_gelu(rng, tmp_path, factor, count, widened):
    function = activation(factor, widened)
    model = to_onnx(function, "toy")
    x = 2.0 * rng.standard_normal((2, 5, WIDTH)).astype(np.float32)
    before = onnxruntime_result(model, x)
    assert clean(model)["gelu"] == count
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    providers = ["CPUExecutionProvider"]
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    operators = [x.op_type for x in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("Gelu") == count
    for run in (onnxruntime_result, openvino_result):
        np.testing.assert_allclose(run(model, x), before, atol=1e-6)
    np.testing.assert_allclose(before, function(tf.constant(x))["y"], atol=1e-6)
