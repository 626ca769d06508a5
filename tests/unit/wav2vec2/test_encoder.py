"""Compares the parts of the transformer with naive implementations."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from wav2vec2.encoder import Encoder, EncoderLayer, PositionalConvolution, SelfAttention


def randomize(layer, rng, scale=0.3):
    for variable in layer.weights:
        variable.assign(scale * rng.standard_normal(variable.shape))


@pytest.mark.parametrize("kernel_size", [8, 5])
def test_positions_are_a_grouped_convolution_with_weight_norm(kernel_size, rng):
    layer = PositionalConvolution(kernel_size, groups=3)
    layer.build((None, None, 12))
    randomize(layer, rng)
    inputs = rng.standard_normal((2, 20, 12)).astype("float32")
    direction, gain, bias = (np.asarray(x, "float64") for x in layer.weights)
    padded = np.pad(inputs, ((0, 0), (kernel_size // 2, kernel_size), (0, 0)))
    wanted = np.zeros((2, 20, 12)) + bias
    for tap in range(kernel_size):
        kernel = direction[:, tap] * gain[tap] / np.linalg.norm(direction[:, tap])
        for group in range(3):
            part = slice(4 * group, 4 * group + 4)
            wanted[:, :, part] += padded[:, tap : tap + 20, part] @ kernel[group]
    np.testing.assert_allclose(layer(inputs), keras.ops.gelu(wanted, False), atol=1e-5)


def test_fixed_kernels_stand_in_for_weight_norm_and_leave_it_as_it_was(rng):
    layer = PositionalConvolution(8, groups=3)
    layer.build((None, None, 12))
    randomize(layer, rng)
    inputs = rng.standard_normal((2, 20, 12)).astype("float32")
    before, kernels = np.asarray(layer(inputs)), np.asarray(layer.kernels())
    layer.gain.assign(2.0 * np.asarray(layer.gain))
    with layer.fixed(kernels):
        np.testing.assert_array_equal(layer(inputs), before)
    assert not np.allclose(layer(inputs), before, atol=1e-2)
    np.testing.assert_allclose(layer.kernels(), 2.0 * kernels, rtol=1e-6)


def test_positions_start_with_the_direction_as_kernel():
    layer = PositionalConvolution(128, groups=4)
    layer.build((None, None, 64))
    norms = np.linalg.norm(np.asarray(layer.direction), axis=(2, 3))
    np.testing.assert_allclose(np.sqrt((norms**2).sum(0)), layer.gain, rtol=0.15)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_attention_is_the_naive_one(rng):
    layer = SelfAttention(3)
    layer.build((None, None, 12))
    randomize(layer, rng)
    inputs = rng.standard_normal((2, 7, 12)).astype("float32")
    valid = np.array([7, 4])
    outputs = layer(inputs, np.arange(7) < valid[:, None])

    def dense(x, child):
        return x @ np.asarray(child.kernel) + np.asarray(child.bias)

    for output, x, count in zip(outputs, inputs, valid, strict=True):
        query, key, value = (dense(x, y) for y in (layer.query, layer.key, layer.value))
        heads = []
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            weights = softmax(query[:, part] @ key[:count, part].T / 2.0)
            heads.append(weights @ value[:count, part])
        wanted = dense(np.concatenate(heads, -1), layer.output_projection)
        np.testing.assert_allclose(output, wanted, atol=1e-5)


def layer_norm(x, layer, epsilon):
    x = np.asarray(x, "float64")
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * np.asarray(layer.gamma) + np.asarray(layer.beta)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_layer_order(pre_norm, rng):
    layer = EncoderLayer(2, 16, pre_norm, epsilon=0.3)
    layer.build((None, None, 8))
    randomize(layer, rng)
    x = rng.standard_normal((1, 5, 8)).astype("float32")

    def feed_forward(x):
        return np.asarray(layer.contraction(keras.ops.gelu(layer.expansion(x), False)))

    def norm(x, child):
        return layer_norm(x, child, 0.3).astype("float32")

    if pre_norm:
        wanted = x + layer.attention(norm(x, layer.attention_norm))
        wanted = wanted + feed_forward(norm(wanted, layer.feedforward_norm))
    else:
        wanted = norm(x + layer.attention(x), layer.attention_norm)
        wanted = norm(wanted + feed_forward(wanted), layer.feedforward_norm)
    np.testing.assert_allclose(layer(x), wanted, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_the_norm_of_the_whole_is_in_front_of_the_layers_or_behind(pre_norm, rng):
    encoder = build_encoder(pre_norm=pre_norm, epsilon=0.3)
    randomize(encoder, rng)
    inputs = rng.standard_normal((2, 6, 8)).astype("float32")
    mask = np.arange(6) < np.array([[6], [4]])
    x = np.where(mask[:, :, None], inputs, 0.0).astype("float32")
    x = x + np.asarray(encoder.position(x))
    if not pre_norm:
        x = layer_norm(x, encoder.norm, 0.3).astype("float32")
    for block in encoder.blocks:
        x = block(x, mask)
    if pre_norm:
        x = layer_norm(x, encoder.norm, 0.3)
    np.testing.assert_allclose(encoder(inputs, mask), x, atol=1e-5)


def build_encoder(**options):
    keras.utils.set_random_seed(1)
    encoder = Encoder(3, 2, 16, 4, position_groups=2, **options)
    encoder.build((None, None, 8))
    return encoder


def test_layer_drop_passes_layers_by(rng):
    inputs = rng.standard_normal((2, 6, 8)).astype("float32")
    encoder = build_encoder(layer_drop_rate=0.5)
    whole = build_encoder()
    whole.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(encoder(inputs), whole(inputs))
    train = tf.function(lambda: encoder(inputs, training=True))
    found = {train().numpy().round(4).tobytes() for _ in range(60)}
    assert len(found) == 2**3
    assert np.asarray(encoder(inputs)).round(4).tobytes() in found


def test_layer_drop_passes_by_as_many_layers_as_its_rate_says(rng):
    inputs = rng.standard_normal((1, 4, 8)).astype("float32")
    encoder = build_encoder(layer_drop_rate=0.9, pre_norm=True)
    randomize(encoder, rng)
    train = tf.function(lambda: encoder(inputs, training=True))
    found = [train().numpy().round(4).tobytes() for _ in range(60)]
    passed = inputs + np.asarray(encoder.position(inputs))
    nothing = layer_norm(passed, encoder.norm, 1e-5).astype("float32").round(4)
    alike = [np.allclose(np.frombuffer(x, "f4"), nothing.ravel(), atol=2e-4) for x in found]
    assert np.mean(alike) == pytest.approx(0.9**3, abs=0.2)


def zero(*children):
    for child in children:
        for variable in child.weights:
            variable.assign(np.zeros(variable.shape))


def shares(x, values):
    """Returns how often each value occurs; checks that no other values occur."""
    close = [np.isclose(x, value, atol=1e-5) for value in values]
    assert np.all(np.any(close, axis=0))
    return [part.mean() for part in close]


RATE = 0.75  # a quarter of the values is kept and multiplied by 4


def test_dropout_is_behind_both_parts(rng):
    layer = EncoderLayer(2, 16, pre_norm=True, dropout_rate=RATE)
    layer.build((None, None, 32))
    zero(layer.attention, layer.contraction)
    layer.attention.output_projection.bias.assign(np.ones(32))
    layer.contraction.bias.assign(np.full(32, 10.0))
    inputs = rng.standard_normal((2, 50, 32)).astype("float32")
    np.testing.assert_allclose(layer(inputs), inputs + 11.0, atol=1e-5)
    found = shares(layer(inputs, training=True) - inputs, [0.0, 4.0, 40.0, 44.0])
    np.testing.assert_allclose(found, [9 / 16, 3 / 16, 3 / 16, 1 / 16], atol=0.03)


def test_activation_dropout_is_between_gelu_and_the_contraction(rng):
    layer = EncoderLayer(2, 32, pre_norm=True, activation_dropout_rate=RATE)
    layer.build((None, None, 32))
    zero(layer.attention, layer.expansion)
    layer.expansion.bias.assign(np.ones(32))
    activated = 0.5 * (1.0 + math.erf(0.5**0.5))
    layer.contraction.kernel.assign(np.eye(32))
    inputs = rng.standard_normal((2, 50, 32)).astype("float32")
    np.testing.assert_allclose(layer(inputs), inputs + activated, atol=1e-5)
    found = shares(layer(inputs, training=True) - inputs, [0.0, 4.0 * activated])
    np.testing.assert_allclose(found, [3 / 4, 1 / 4], atol=0.03)


def test_attention_dropout_is_on_the_weights_of_each_head(rng):
    layer = SelfAttention(8, RATE)
    layer.build((None, None, 8))
    zero(layer)
    layer.value.bias.assign(np.ones(8))
    layer.output_projection.kernel.assign(np.eye(8))
    inputs = rng.standard_normal((100, 2, 8)).astype("float32")
    np.testing.assert_allclose(layer(inputs), 1.0, atol=1e-6)
    # Two keys with weight 1/2 each; dropout keeps both, one or none.
    found = shares(layer(inputs, training=True), [0.0, 2.0, 4.0])
    np.testing.assert_allclose(found, [9 / 16, 6 / 16, 1 / 16], atol=0.03)


def test_dropout_is_in_front_of_the_layers_too(rng):
    encoder = build_encoder(pre_norm=True, dropout_rate=RATE)
    zero(encoder.position, *encoder.blocks)
    encoder.position.direction.assign(np.ones(encoder.position.direction.shape))
    inputs = rng.standard_normal((2, 50, 8)).astype("float32")
    found = np.asarray(encoder(inputs, training=True))
    kept = [
        layer_norm(np.where(mask, 4.0 * x, 0.0), encoder.norm, 1e-5)
        for x in inputs[:, :, None]
        for mask in [np.array([[bool(n >> i & 1) for i in range(8)] for n in range(256)])]
    ]
    near = np.abs(np.stack(kept) - found[:, :, None]).max(-1).min(-1)
    assert near.max() < 1e-4 and not np.allclose(found, encoder(inputs), atol=0.1)


@pytest.mark.parametrize("name", ["query", "key", "value", "output_projection"])
def test_projections_start_small(name):
    layer = SelfAttention(4)
    layer.build((None, None, 128))
    kernel = np.asarray(getattr(layer, name).kernel)
    assert kernel.std() == pytest.approx(0.02, rel=0.05) and abs(kernel.mean()) < 1e-3


def test_dropouts_are_where_they_are_asked_for(rng):
    inputs = rng.standard_normal((2, 6, 8)).astype("float32")
    for name in ("dropout_rate", "attention_dropout_rate", "activation_dropout_rate"):
        encoder = build_encoder(**{name: 0.5})
        assert not np.allclose(encoder(inputs, training=True), encoder(inputs)), name


def test_configs_rebuild_the_layers():
    for layer in (
        build_encoder(layer_drop_rate=0.5, pre_norm=True),
        EncoderLayer(
            2,
            16,
            True,
            1e-6,
            dropout_rate=0.1,
            attention_dropout_rate=0.2,
            activation_dropout_rate=0.3,
        ),
        PositionalConvolution(4, 2),
    ):
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
