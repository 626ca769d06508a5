"""Every rewrite of a graph is made where it should be, and keeps the values."""

import contextlib
import os

import keras
import numpy as np
import onnx
import onnxruntime
import openvino
import psutil
import pytest
import tensorflow as tf
import tf2onnx

from tools.conversion.rewrites.cleaning import OPTIONS, clean, store_in_half
from tools.conversion.signature import to_onnx

WIDTH = 6


class Layers(tf.Module):
    """One function for each rewrite, of `x [B, T, 6]` and `mask [B, T]`."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-3)
        self.dense = keras.layers.Dense(4, activation="silu")
        self.depthwise = keras.layers.DepthwiseConv2D((5, 1), padding="same")
        for layer in (self.norm, self.dense):
            layer.build((None, None, WIDTH))
        self.depthwise.build((None, None, 1, WIDTH))
        for layer in (self.norm, self.dense, self.depthwise):
            layer.set_weights([rng.uniform(-1.0, 1.0, w.shape) for w in layer.get_weights()])
        self.scale, self.shift = rng.uniform(-2.0, 2.0, (2, WIDTH)).astype(np.float32)

    def layer_norm(self, x, mask):
        return self.norm(x)

    def bare_norm(self, x, mask):
        """What tf2onnx leaves of a norm with a factor of one and an offset of zero."""
        mean = tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True)
        scale = tf.math.rsqrt(variance + 1e-3)
        return x * scale + (-mean * scale)

    def dense_layer(self, x, mask):
        return self.dense(x)

    def select(self, x, mask):
        return tf.where(mask[:, :, None], x, -3.0)

    def masked_convolutions(self, x, mask):
        """The mask stands between two transpositions, to the runtime's order of axes and back."""
        x = tf.nn.relu(self.depthwise(x[:, :, None]))
        return self.depthwise(tf.where(mask[:, :, None, None], x, 0.5))[:, :, 0]

    def batch_norm(self, x, mask):
        x = tf.squeeze(self.depthwise(x[:, :, None]), 2)
        return x * self.scale + self.shift

    def batch_norm_without_offset(self, x, mask):
        return tf.squeeze(self.depthwise(x[:, :, None]), 2) * self.scale

    def pick(self, x, mask):
        return tf.gather(x[:, 1:, ::2], tf.constant([2, 0], tf.int64), axis=2)


@pytest.fixture(scope="module")
def layers():
    return Layers()


def translated(function):
    concrete = tf.function(
        lambda x, mask: {"y": function(x, mask)},
        input_signature=[
            tf.TensorSpec([None, None, WIDTH], tf.float32, "x"),
            tf.TensorSpec([None, None], tf.bool, "mask"),
        ],
    ).get_concrete_function()
    return to_onnx(concrete, "toy"), concrete


def run(model, inputs):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], inputs)[0]


@pytest.mark.parametrize(
    ("name", "rewrite", "made", "gone"),
    [
        ("layer_norm", "layer_norm", "LayerNormalization", "ReduceMean"),
        ("bare_norm", "layer_norm", "LayerNormalization", "ReduceMean"),
        ("dense_layer", "dense", "MatMul", "Reshape"),
        ("select", "select", "Where", "Not"),
        ("batch_norm", "batch_norm", "Conv", "Add"),
        ("batch_norm_without_offset", "batch_norm", "Conv", "Mul"),
    ],
)
def test_a_rewrite_is_made_and_keeps_the_values(layers, rng, name, rewrite, made, gone):
    model, concrete = translated(getattr(layers, name))
    inputs = {
        "x": rng.standard_normal((3, 7, WIDTH)).astype(np.float32),
        "mask": rng.uniform(size=(3, 7)) < 0.5,
    }
    before = run(model, inputs)
    assert clean(model, OPTIONS)[rewrite] == 1
    operators = [node.op_type for node in model.graph.node]
    assert operators.count(made) == 1
    if name != "dense_layer":  # its bias is added
        assert gone not in operators
    after = run(model, inputs)
    np.testing.assert_allclose(after, before, atol=1e-5)
    expected = concrete(**{name: tf.constant(value) for name, value in inputs.items()})["y"]
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_a_mask_between_convolutions_is_transposed_itself(layers, rng):
    model, concrete = translated(layers.masked_convolutions)
    inputs = {
        "x": rng.standard_normal((3, 7, WIDTH)).astype(np.float32),
        "mask": rng.uniform(size=(3, 7)) < 0.5,
    }
    before = run(model, inputs)
    assert clean(model)["transpose"] == 1
    _, second = (node for node in model.graph.node if node.op_type == "Conv")
    (where,) = (node for node in model.graph.node if node.op_type == "Where")
    between = {node.output[0]: node.op_type for node in model.graph.node}
    assert second.input[0] == where.output[0]
    assert [between[name] for name in where.input[:2]] == ["Transpose", "Relu"]
    after = run(model, inputs)
    np.testing.assert_array_equal(after, before)
    expected = concrete(**{name: tf.constant(value) for name, value in inputs.items()})["y"]
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_a_transposition_of_as_much_is_no_gain(rng):
    """The other summand would have to be transposed as well, and a sum that is read elsewhere."""
    depthwise = keras.layers.DepthwiseConv2D((5, 1), padding="same")
    depthwise.build((None, None, 1, WIDTH))

    def function(x, mask):
        y = depthwise(x[:, :, None])
        halves = y * 0.5
        return tf.nn.relu(depthwise(y + x[:, :, None]) + depthwise(halves) + halves)[:, :, 0]

    model, _ = translated(function)
    x = rng.standard_normal((2, 5, WIDTH)).astype(np.float32)
    inputs = {"x": x, "mask": np.ones((2, 5), bool)}
    before = run(model, inputs)
    assert clean(model)["transpose"] == 0
    np.testing.assert_array_equal(run(model, inputs), before)


def test_a_select_holds_back_what_is_not_a_number(layers, rng):
    model, _ = translated(layers.select)
    clean(model)
    x = np.full((1, 2, WIDTH), np.nan, np.float32)
    found = run(model, {"x": x, "mask": np.zeros((1, 2), bool)})
    np.testing.assert_array_equal(found, np.full_like(x, -3.0))


def test_what_only_looks_alike_is_left(rng):
    """A norm over another axis, and a factor of a convolution that is read elsewhere as well."""
    norm = keras.layers.LayerNormalization(axis=1)
    norm.build((None, 5, WIDTH))
    depthwise = keras.layers.DepthwiseConv2D((5, 1), padding="same")
    depthwise.build((None, None, 1, WIDTH))
    factor = tf.constant(rng.uniform(1.0, 2.0, WIDTH), tf.float32)

    def function(x, mask):
        y = tf.squeeze(depthwise(x[:, :, None]), 2)
        return norm(tf.ensure_shape(y * factor + factor + tf.nn.relu(y), [None, 5, WIDTH]))

    model, _ = translated(function)
    x = rng.standard_normal((2, 5, WIDTH)).astype(np.float32)
    inputs = {"x": x, "mask": np.ones((2, 5), bool)}
    before = run(model, inputs)
    counts = clean(model, OPTIONS)
    assert counts["layer_norm"] == counts["batch_norm"] == 0
    np.testing.assert_array_equal(run(model, inputs), before)


def pooled(model, **changes):
    """A graph of ours whose pooling is changed before it is cleaned."""
    (pool,) = (node for node in model.graph.node if node.op_type == "MaxPool")
    for name, value in changes.items():
        pool.attribute.append(onnx.helper.make_attribute(name, value))
    return clean(model)["padded_pool"]


@pytest.mark.parametrize(
    ("kind", "activation", "edge", "rewritten"),
    [
        ("whole", tf.nn.relu, [[1, 1], [1, 1]], 1),
        ("uneven", tf.nn.relu, [[0, 2], [1, 0]], 1),
        ("below zero", tf.nn.tanh, [[1, 1], [1, 1]], 0),
        ("a window of padding", tf.nn.relu, [[3, 1], [1, 1]], 0),
        ("channels", tf.nn.relu, [[1, 1], [1, 1]], 0),
        ("ceil_mode", tf.nn.relu, [[1, 1], [1, 1]], 0),
    ],
)
def test_zeros_under_a_maximum_become_its_own_padding(
    layers, rng, kind, activation, edge, rewritten
):
    kernel = rng.standard_normal((1, 1, 1, 4)).astype(np.float32)

    def function(x, mask):
        x = activation(tf.nn.conv2d(x[..., None], kernel, 1, "VALID"))
        x = tf.pad(x, [[0, 0], *edge, [0, 1 if kind == "channels" else 0]])
        return tf.nn.max_pool2d(x, 3, 2, "VALID")

    model, _ = translated(function)
    x = rng.standard_normal((2, 7, WIDTH)).astype(np.float32)
    inputs = {"x": x, "mask": np.ones((2, 7), bool)}
    if kind in ("ceil_mode", "a window of padding"):  # ONNX Runtime 1.31 itself fuses and fails
        assert pooled(model, **{kind: 1} if kind == "ceil_mode" else {}) == rewritten
        return
    before = run(model, inputs)
    assert pooled(model) == rewritten
    assert ("Pad" in [node.op_type for node in model.graph.node]) != bool(rewritten)
    np.testing.assert_array_equal(run(model, inputs), before)


def test_names_of_inputs_and_outputs_are_those_of_the_signature(layers):
    model, _ = translated(layers.select)
    assert {tensor.name for tensor in model.graph.input} == {"x", "mask"}
    assert [tensor.name for tensor in model.graph.output] == ["y"]


def test_an_absolute_value_of_constants_is_right():
    """As the reflected edge of a waveform of fixed length has it."""

    def function(x, mask):
        positions = tf.abs(tf.range(tf.shape(x)[1] + 3) - 3)
        reflected = tf.gather(x, tf.math.floormod(positions, tf.shape(x)[1]), axis=1)
        return tf.where(mask[:, :1, None], reflected, 0.0)

    model, _ = translated(function)
    assert clean(model)["absolute"] == 1
    x = np.arange(5 * WIDTH, dtype=np.float32).reshape(1, 5, WIDTH)
    inputs = {"x": x, "mask": np.ones((1, 5), bool)}
    network = openvino.Core().read_model(model.SerializeToString(), b"")
    network.reshape({name: list(value.shape) for name, value in inputs.items()})
    (found,) = openvino.compile_model(network, "CPU")(inputs).values()
    np.testing.assert_array_equal(found, x[:, [3, 2, 1, 0, 1, 2, 3, 4]])


def test_a_factor_that_is_read_twice_is_left(layers, rng):
    def function(x, mask):
        y = tf.squeeze(layers.depthwise(x[:, :, None]), 2) * layers.scale
        return (y + layers.shift) * tf.nn.relu(y)

    model, _ = translated(function)
    x = rng.standard_normal((2, 5, WIDTH)).astype(np.float32)
    inputs = {"x": x, "mask": np.ones((2, 5), bool)}
    before = run(model, inputs)
    clean(model, OPTIONS)
    np.testing.assert_allclose(run(model, inputs), before, atol=1e-5)


def test_indices_become_short_where_they_only_pick(layers, rng):
    x = rng.standard_normal((2, 5, WIDTH)).astype(np.float32)
    inputs = {"x": x, "mask": np.ones((2, 5), bool)}
    types = {}
    for options in ((), ("type64to32_conversion",)):
        model, _ = translated(layers.pick)
        counts = clean(model, options)
        assert bool(counts.get("short_index")) == bool(options)
        constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        types[options] = {
            constants[name]
            for node in model.graph.node
            if node.op_type in ("Slice", "Gather")
            for name in node.input[1:]
        }
        np.testing.assert_array_equal(run(model, inputs), x[:, 1:, ::2][:, :, [2, 0]])
    int32, int64 = onnx.TensorProto.INT32, onnx.TensorProto.INT64
    assert int64 in types[()]
    assert types[("type64to32_conversion",)] == {int32}


def test_constants_in_half_precision(rng):
    kernel = rng.standard_normal((WIDTH, 400)).astype(np.float32)
    model, _ = translated(lambda x, mask: tf.linalg.matmul(x, kernel))
    x = rng.standard_normal((1, 5, WIDTH)).astype(np.float32)
    inputs = {"x": x, "mask": np.ones((1, 5), bool)}
    clean(model)
    size = model.ByteSize()
    store_in_half(model)
    assert model.ByteSize() < size - kernel.nbytes // 3
    halved = kernel.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(run(model, inputs), x @ halved, atol=1e-5)


def test_a_nameless_operator_comes_to_the_layer_that_reads_it(layers):
    def function(x, mask):
        with tf.name_scope("tower"):
            return layers.batch_norm(x, mask)

    model, _ = translated(function)
    clean(model, OPTIONS)
    (convolution,) = (node for node in model.graph.node if node.op_type == "Conv")
    assert convolution.name.startswith("tower/")


def test_a_nameless_convolution_comes_to_the_layer_of_its_kernel():
    """Not to that of whoever reads it, which is another one here."""
    with tf.name_scope("tower"):
        kernel = tf.Variable(np.ones((3, 1, 2), np.float32), name="kernel")

    class Tower(tf.Module):
        def __call__(self, x, mask):
            with tf.name_scope("tower"):
                y = tf.nn.conv1d(x[..., :1], kernel, 1, "SAME")
                y = y * tf.constant([2.0, 3.0]) + 1.0
            with tf.name_scope("roof"):
                return tf.nn.relu(y)

    model, _ = translated(Tower())
    clean(model, OPTIONS)
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert len(names) == 1
    assert names[0].startswith("tower/")


def test_a_conversion_copies_constants_a_few_times(monkeypatch):
    kernel = np.ones((2048, 2048), np.float32)
    optimize, grown = tf2onnx.optimizer.optimize_graph, []

    def measured(*arguments, **options):
        before = psutil.Process().memory_info().rss
        result = optimize(*arguments, **options)
        grown.append(psutil.Process().memory_info().rss - before)
        return result

    monkeypatch.setattr(tf2onnx.optimizer, "optimize_graph", measured)
    translated(lambda x, mask: tf.linalg.matmul(tf.pad(x, [[0, 0], [0, 0], [0, 2042]]), kernel))
    (growth,) = grown
    assert growth < 10 * kernel.nbytes


def test_rewrites_do_not_copy_constants():
    """A message keeps the memory of what is removed from it, so that each copy would stay."""
    kernel = np.ones((2048, 2048), np.float32)
    model, _ = translated(
        lambda x, mask: tf.linalg.matmul(tf.pad(x, [[0, 0], [0, 0], [0, 2042]]), kernel)
    )
    before = psutil.Process().memory_info().rss
    clean(model)
    assert psutil.Process().memory_info().rss - before < 2 * kernel.nbytes
    assert [2048, 2048] in [list(x.dims) for x in model.graph.initializer]


def test_constants_that_no_operator_reads_are_removed():
    model, _ = translated(lambda x, mask: x + np.float32(3.0))
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2), "unread"))
    clean(model)
    assert {x.name for x in model.graph.initializer} == read - {"x"}


def test_names_of_operators_stay_different():
    """An operator outside of all layers comes to one that has an operator of that name."""

    def function(x, mask):
        x = x - tf.reduce_max(x, 1, keepdims=True)
        with tf.name_scope("tower"):
            return x - tf.nn.relu(x)

    model, _ = translated(function)
    clean(model)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert [node.op_type for node in model.graph.node if "tower/sub" in node.name] == ["Sub"] * 2
    x = np.ones((1, 2, WIDTH), np.float32)
    np.testing.assert_array_equal(run(model, {"x": x, "mask": np.ones((1, 2), bool)}), 0.0 * x)


@pytest.mark.parametrize("catch", [None, "TRUE"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_conversion_leaves_tf2onnx_as_it_was(monkeypatch, catch, fails):
    name, update = "TF2ONNX_CATCH_ERRORS", tf2onnx.graph.Node.update_proto
    monkeypatch.delenv(name, raising=False)
    if catch is not None:
        monkeypatch.setenv(name, catch)
    seen = []

    def optimize_graph(graph, *_, **__):
        seen.append((os.environ[name], tf2onnx.graph.Node.update_proto is update))
        if fails:
            raise ValueError("a pass that fails")
        return graph

    monkeypatch.setattr(tf2onnx.optimizer, "optimize_graph", optimize_graph)
    with pytest.raises(ValueError, match="fails") if fails else contextlib.nullcontext():
        translated(lambda x, mask: 2.0 * x)
    assert seen == [("FALSE", False)]
    assert os.environ.get(name) == catch
    assert tf2onnx.graph.Node.update_proto is update
