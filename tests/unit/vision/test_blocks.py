"""Compares all blocks with NumPy in float64, in the channel order of the original."""

import math

import keras
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from vision.attention import MultiHeadAttention, TransformerBlock
from vision.blocks import CouplingDown, CouplingUp
from vision.convolution import BatchNormalization, ConvolutionBlock, ConvolutionNorm


def randomize(layer, rng):
    """Assigns random values to all variables; returns them by the end of their path."""
    for variable in layer.weights:
        value = rng.standard_normal(variable.shape) * 0.5
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.path else value)
    root = f"{layer.name}/"
    return {v.path.removeprefix(root): np.asarray(v, "float64") for v in layer.weights}


def convolve(x, kernel, stride):
    """Cross-correlation of `[B, H, W, C]` padded by half a kernel on all sides."""
    size = kernel.shape[0]
    half = size // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    windows = sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel)


def batch_norm(x, w, prefix, epsilon=1e-6):
    mean, variance = w[f"{prefix}moving_mean"], w[f"{prefix}moving_variance"]
    return (x - mean) / np.sqrt(variance + epsilon) * w[f"{prefix}gamma"] + w[f"{prefix}beta"]


def convolution_norm(x, w, prefix, stride=1):
    return batch_norm(
        convolve(x, w[f"{prefix}convolution/kernel"], stride), w, f"{prefix}normalization/"
    )


def layer_norm(x, w, prefix):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * w[f"{prefix}gamma"] + w[f"{prefix}beta"]


def dense(x, w, prefix):
    return x @ w[f"{prefix}kernel"] + w[f"{prefix}bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_of_tanh(x):
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(x, w, prefix, num_heads, dropped=1.0):
    """Computes one query and one head at a time; `dropped` is the dropout of weights."""
    query, key, value = np.split(dense(x, w, f"{prefix}query_key_value/"), 3, axis=-1)
    size = x.shape[-1] // num_heads
    context = np.zeros_like(x)
    for image in range(len(x)):
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            for place in range(x.shape[1]):
                scores = key[image, :, part] @ query[image, place, part] / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                context[image, place, part] = (
                    dropped * weights / weights.sum() @ value[image, :, part]
                )
    return dense(context, w, f"{prefix}output_projection/")


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def times(factor):
    """Replaces a dropout layer; changes its input in a way that can be recognized."""

    def multiply(x, training):
        assert training, "the layer is told that this is training"
        return factor * x

    return multiply


@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("height", [8, 7])
def test_convolution_pads_both_sides(rng, kernel_size, strides, height):
    layer = ConvolutionNorm(5, kernel_size, strides)
    layer.build((None, None, None, 4))
    w, x = randomize(layer, rng), rng.standard_normal((2, height, 6, 4))
    close(layer(x), convolution_norm(x, w, "", strides))


@pytest.mark.parametrize(("strides", "project"), [(1, False), (1, True), (2, True)])
def test_convolution_block(rng, strides, project):
    layer = ConvolutionBlock(8, strides, project, drop_path_rate=0.5)
    layer.build((None, None, None, 8))
    w, x = randomize(layer, rng), rng.standard_normal((2, 6, 8, 8))
    added = rng.standard_normal((2, 6, 8, 2))
    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    inner = relu(convolution_norm(x, w, "reduce/")) + added
    inner = relu(convolution_norm(inner, w, "spatial/", strides))
    shortcut = convolution_norm(x, w, "residual/", strides) if project else x
    expected = relu(convolution_norm(inner, w, "expand/") + shortcut)
    for actual, reference in zip(layer(x, added), (expected, inner), strict=True):
        close(actual, reference)


@pytest.mark.parametrize("pool_size", [1, 2, 4])
def test_coupling_down_convolves_then_pools(rng, pool_size):
    layer = CouplingDown(6, pool_size)
    layer.build((None, None, None, 3))
    w, x = randomize(layer, rng), rng.standard_normal((2, 4, 8, 3))
    tokens = rng.standard_normal((2, 1 + 32 // pool_size**2, 6))
    projected = dense(x, w, "projection/")
    pooled = projected.reshape(2, 4 // pool_size, pool_size, 8 // pool_size, pool_size, 6)
    patches = layer_norm(pooled.mean((2, 4)).reshape(2, -1, 6), w, "normalization/")
    close(layer(x, tokens), np.concatenate([tokens[:, :1], gelu(patches)], axis=1))


@pytest.mark.parametrize("up_size", [1, 2, 4])
def test_coupling_up_repeats(rng, up_size):
    layer = CouplingUp(3, up_size)
    layer.build((None, None, 6))
    w, tokens = randomize(layer, rng), rng.standard_normal((2, 1 + 2 * 3, 6))
    x = np.maximum(batch_norm(dense(tokens[:, 1:], w, "projection/"), w, "normalization/"), 0)
    expected = x.reshape(2, 2, 3, 3).repeat(up_size, 1).repeat(up_size, 2)
    close(layer(tokens, height=2 * up_size, width=3 * up_size), expected)


def test_attention(rng):
    layer = MultiHeadAttention(2, dropout_rate=0.5, attention_dropout_rate=0.5)
    layer.build((None, None, 6))
    w, x = randomize(layer, rng), rng.standard_normal((2, 5, 6))
    close(layer(x), attention(x, w, "", 2))


def test_transformer_block(rng):
    """Evaluation mode, without dropout."""
    rates = ("dropout_rate", "attention_dropout_rate", "drop_path_rate")
    layer = TransformerBlock(2, 10, **dict.fromkeys(rates, 0.5))
    layer.build((None, None, 6))
    w, x = randomize(layer, rng), rng.standard_normal((2, 5, 6))
    attended = x + attention(layer_norm(x, w, "attention_norm/"), w, "attention/", 2)
    inner = gelu(dense(layer_norm(attended, w, "feedforward_norm/"), w, "expansion/"))
    close(layer(x), attended + dense(inner, w, "contraction/"))


def test_dropout_is_behind_weights_projections_and_activation(rng):
    layer = TransformerBlock(2, 10)
    layer.build((None, None, 6))
    w, x = randomize(layer, rng), rng.standard_normal((2, 5, 6))
    layer.attention.attention_dropout, layer.attention.dropout = times(2), times(3)
    layer.dropouts, layer.drop_path = [times(5), times(7)], times(11)
    attended = attention(layer_norm(x, w, "attention_norm/"), w, "attention/", 2, dropped=2)
    attended = x + 11 * 3 * attended
    inner = 5 * gelu(dense(layer_norm(attended, w, "feedforward_norm/"), w, "expansion/"))
    expected = attended + 11 * 7 * dense(inner, w, "contraction/")
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-4, atol=1e-3)


def test_gelu_in_its_other_form(rng):
    """GELU of MindSpore differs from exact GELU by up to 5e-4, far more than rounding."""
    layer = TransformerBlock(2, 10, approximate_gelu=True)
    layer.build((None, None, 6))
    w, x = randomize(layer, rng), rng.standard_normal((2, 5, 6))
    attended = x + attention(layer_norm(x, w, "attention_norm/"), w, "attention/", 2)
    inner = gelu_of_tanh(dense(layer_norm(attended, w, "feedforward_norm/"), w, "expansion/"))
    close(layer(x), attended + dense(inner, w, "contraction/"))
    layer = CouplingDown(6, 1, approximate_gelu=True)
    layer.build((None, None, None, 3))
    w, x = randomize(layer, rng), rng.standard_normal((2, 4, 8, 3))
    patches = layer_norm(dense(x, w, "projection/").reshape(2, -1, 6), w, "normalization/")
    close(layer(x, np.zeros((2, 33, 6)))[:, 1:], gelu_of_tanh(patches))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_softmax_is_computed_in_float32(policy, rng, monkeypatch):
    layer = MultiHeadAttention(2, dtype=policy)
    layer.build((None, None, 6))
    seen, softmax = [], keras.ops.softmax
    monkeypatch.setattr(
        keras.ops, "softmax", lambda x, axis: seen.append(x.dtype.name) or softmax(x, axis)
    )
    layer(rng.standard_normal((2, 5, 6)))
    assert seen == ["float32"]


def test_drop_path_takes_whole_samples(rng):
    layer = TransformerBlock(2, 10, drop_path_rate=0.5)
    layer.build((None, None, 6))
    randomize(layer, rng)
    x = np.broadcast_to(rng.standard_normal((1, 5, 6)), (64, 5, 6)).astype("float32")
    kinds = {np.asarray(y).round(3).tobytes() for y in layer(x, training=True)}
    assert len(kinds) == 4  # either branch, both, none
    assert x[0].round(3).tobytes() in kinds


def test_drop_path_of_a_convolution_block_leaves_the_shortcut(rng):
    layer = ConvolutionBlock(8, drop_path_rate=0.5)
    layer.build((None, None, None, 8))
    w = randomize(layer, rng)
    x = rng.standard_normal((1, 4, 4, 8))
    for name in ("reduce", "spatial", "expand"):
        getattr(layer, name).normalization.trainable = False  # moments of the batch would differ
    inner = np.maximum(convolution_norm(x, w, "reduce/"), 0)
    inner = np.maximum(convolution_norm(inner, w, "spatial/"), 0)
    branch = convolution_norm(inner, w, "expand/")
    kept, dropped = np.maximum(2 * branch + x, 0), np.maximum(x, 0)
    found, _ = layer(np.repeat(x, 32, axis=0), training=True)
    is_kept = [np.allclose(y, kept[0], rtol=1e-4, atol=1e-4) for y in found]
    is_dropped = [np.allclose(y, dropped[0], rtol=1e-4, atol=1e-4) for y in found]
    assert all(np.logical_xor(is_kept, is_dropped))
    assert 4 < sum(is_kept) < 28


@pytest.mark.parametrize("over_ranks", [False, True])
def test_a_frozen_normalization_keeps_to_its_moving_statistics(over_ranks, rng):
    layer = BatchNormalization()
    layer.build((None, None, None, 3))
    w, x = randomize(layer, rng), rng.standard_normal((2, 4, 4, 3)).astype("float32")

    def refuse(*_):
        raise AssertionError("moments of the batch are of no use here")

    if over_ranks:
        layer.sum_over_ranks = refuse
    else:
        layer.normalize_batch = refuse
    layer.trainable = False
    for training in (True, False):
        close(layer(x, training=training), batch_norm(x, w, ""))
    layer.trainable = True
    close(layer(x, training=False), batch_norm(x, w, ""))
    for variable in layer.weights:
        np.testing.assert_array_equal(variable, w[variable.path.partition("/")[2]].astype("f4"))
