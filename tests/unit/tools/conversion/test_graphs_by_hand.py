"""Rewrites of graphs that tf2onnx does not write, but may: what only looks alike stays."""

import numpy as np
import pytest
import tensorflow as tf
from onnx import TensorProto, helper

from tests.support.onnx_graphs import make_model, run_model
from tools.conversion.rewrites.cleaning import OPTIONS, clean, store_in_half
from tools.conversion.signature import to_onnx

node = helper.make_node


def same_values(model, inputs, options=OPTIONS):
    """Cleans a model, holds its outputs against those before, and gives the counts."""
    before = run_model(model, inputs)
    counts = clean(model, options)
    for found, expected in zip(run_model(model, inputs), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    return counts


def scaled_convolution(rng, outputs):
    constants = {
        "kernel": rng.standard_normal((4, 4, 3)).astype(np.float32),
        "bias": rng.standard_normal(4).astype(np.float32),
        "scale": rng.uniform(1, 2, (1, 4, 1)).astype(np.float32),
        "shift": rng.standard_normal((1, 4, 1)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "kernel", "bias"], ["c"], "conv"),
        node("Mul", ["c", "scale"], ["m"], "mul"),
        node("Add", ["m", "shift"], ["y"], "add"),
    ]
    return make_model(nodes, {"x": ["b", 4, "t"]}, outputs, constants)


def test_a_factor_folds_into_kernel_and_bias(rng):
    model = scaled_convolution(rng, ["y"])
    inputs = {"x": rng.standard_normal((2, 4, 7)).astype(np.float32)}
    assert same_values(model, inputs)["batch_norm"] == 1
    assert "Mul" not in [x.op_type for x in model.graph.node]


@pytest.mark.parametrize("inner", ["c", "m"])
def test_what_is_an_output_itself_stays(rng, inner):
    model = scaled_convolution(rng, ["y", inner])
    inputs = {"x": rng.standard_normal((2, 4, 7)).astype(np.float32)}
    counts = same_values(model, inputs)
    assert counts["batch_norm"] == {"c": 0, "m": 1}[inner]


def test_a_choice_between_two_masks_stays(rng):
    nodes = [
        node("Cast", ["one"], ["a"], to=TensorProto.FLOAT),
        node("Not", ["other"], ["n"]),
        node("Cast", ["n"], ["b"], to=TensorProto.FLOAT),
        node("Mul", ["a", "x"], ["p"]),
        node("Mul", ["b", "z"], ["q"]),
        node("Add", ["p", "q"], ["y"]),
    ]
    inputs = {name: rng.standard_normal((3, 5)).astype(np.float32) for name in "xz"}
    masks = {name: rng.uniform(size=(3, 5)) < 0.5 for name in ("one", "other")}
    shapes = {name: [3, 5] for name in (*inputs, *masks)}
    model = make_model(nodes, shapes, ["y"], {}, booleans=list(masks))
    assert same_values(model, inputs | masks)["select"] == 0
    # The same mask twice is a choice.
    nodes[1].input[0] = "one"
    del shapes["other"], masks["other"]
    model = make_model(nodes, shapes, ["y"], {}, booleans=list(masks))
    assert same_values(model, inputs | masks)["select"] == 1


OPEN = 2**31 - 1


@pytest.mark.parametrize(
    ("start", "end", "step", "count"),
    [(0, OPEN, 1, 1), (0, OPEN, 2, 0), (1, OPEN, 1, 0), (0, 4, 1, 0)],
)
def test_only_a_slice_of_everything_goes(rng, start, end, step, count):
    constants = {"s": np.array([start]), "e": np.array([end]), "a": np.array([1])}
    constants["p"] = np.array([step])
    nodes = [node("Slice", ["x", "s", "e", "a", "p"], ["y"], "slice")]
    model = make_model(nodes, {"x": [2, 6]}, ["y"], constants)
    inputs = {"x": rng.standard_normal((2, 6)).astype(np.float32)}
    assert same_values(model, inputs, ())["full_slice"] == count


def test_ends_beyond_32_bits_are_cut_and_do_not_wrap(rng):
    constants = {"s": np.array([1]), "e": np.array([2**63 - 1]), "a": np.array([1])}
    model = make_model(
        [node("Slice", ["x", "s", "e", "a"], ["y"], "slice")], {"x": [2, 6]}, ["y"], constants
    )
    inputs = {"x": rng.standard_normal((2, 6)).astype(np.float32)}
    assert same_values(model, inputs, ["type64to32_conversion"])["short_index"] == 3


@pytest.mark.parametrize(("value", "count"), [(0.0, 1), (1.5, 0)])
def test_a_pad_of_another_value_stays(rng, value, count):
    edges = np.array([0, 0, 1, 0, 0, 0, 0, 1])
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Pad", ["r", "edges", "value"], ["p"]),
        node("MaxPool", ["p"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    constants = {"edges": edges, "value": np.float32(value)}
    model = make_model(nodes, {"x": [1, 2, 5, 5]}, ["y"], constants)
    inputs = {"x": rng.standard_normal((1, 2, 5, 5)).astype(np.float32)}
    assert same_values(model, inputs)["padded_pool"] == count


def test_constants_beyond_half_precision_stay(rng):
    values = {"small": rng.standard_normal((40, 40)), "large": 1e5 * rng.standard_normal((40, 40))}
    values["few"] = rng.standard_normal((40, 2))
    values = {name: value.astype(np.float32) for name, value in values.items()}
    nodes = [node("MatMul", ["x", name], [f"{name}_y"], name) for name in values]
    model = make_model(nodes, {"x": [3, 40]}, [f"{name}_y" for name in values], values)
    x = rng.standard_normal((3, 40)).astype(np.float32)
    store_in_half(model)
    found = dict(zip(values, run_model(model, {"x": x}), strict=True))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    half, whole = TensorProto.FLOAT16, TensorProto.FLOAT
    assert types == {"small__half": half, "large": whole, "few": whole}
    np.testing.assert_allclose(found["large"], x @ values["large"], rtol=1e-4, atol=1)
    halved = values["small"].astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(found["small"], x @ halved, atol=1e-5)


def translated(function, *shape):
    specs = [tf.TensorSpec(shape, tf.float32, "x")]
    concrete = tf.function(lambda x: {"y": function(x)}, specs).get_concrete_function()
    return to_onnx(concrete, "toy")


@pytest.mark.parametrize(("axis", "count"), [(-1, 1), (2, 1), (1, 0)])
def test_a_norm_over_another_axis_stays(rng, axis, count):
    def norm(x):
        mean = tf.reduce_mean(x, axis, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axis, keepdims=True)
        scale = tf.math.rsqrt(variance + 1e-3)
        return x * scale + (-mean * scale)

    inputs = {"x": rng.standard_normal((2, 6, 6)).astype(np.float32)}
    assert same_values(translated(norm, None, 6, 6), inputs)["layer_norm"] == count


@pytest.mark.parametrize(("order", "count"), [([0, 1], 1), ([1, 0], 0)])
def test_a_product_with_other_axes_behind_it_stays(rng, order, count):
    kernel = rng.standard_normal((6, 4)).astype(np.float32)

    def dense(x):
        product = tf.linalg.matmul(tf.reshape(x, [-1, 6]), kernel)
        return tf.reshape(product, tf.concat([tf.gather(tf.shape(x), order), [4]], 0))

    inputs = {"x": rng.standard_normal((2, 3, 6)).astype(np.float32)}
    assert same_values(translated(dense, None, None, 6), inputs, ())["dense"] == count
