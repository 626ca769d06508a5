"""The transformer's parts against naive ones."""

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


@pytest.mark.parametrize("pre_norm", [False, True])
def test_layer_order(pre_norm, rng):
    layer = EncoderLayer(2, 16, pre_norm)
    layer.build((None, None, 8))
    randomize(layer, rng)
    x = rng.standard_normal((1, 5, 8)).astype("float32")

    def feed_forward(x):
        return layer.contraction(keras.ops.gelu(layer.expansion(x), False))

    if pre_norm:
        wanted = x + layer.attention(layer.attention_norm(x))
        wanted = wanted + feed_forward(layer.feedforward_norm(wanted))
    else:
        wanted = layer.attention_norm(x + layer.attention(x))
        wanted = layer.feedforward_norm(wanted + feed_forward(wanted))
    np.testing.assert_allclose(layer(x), wanted, atol=1e-5)


def build_encoder(**options):
    keras.utils.set_random_seed(1)
    encoder = Encoder(3, 2, 16, 4, 2, **options)
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


def test_dropouts_are_where_they_are_asked_for(rng):
    inputs = rng.standard_normal((2, 6, 8)).astype("float32")
    for name in ("dropout_rate", "attention_dropout_rate", "activation_dropout_rate"):
        encoder = build_encoder(**{name: 0.5})
        assert not np.allclose(encoder(inputs, training=True), encoder(inputs)), name


def test_configs_rebuild_the_layers():
    for layer in (
        build_encoder(layer_drop_rate=0.5, pre_norm=True),
        EncoderLayer(2, 16, True, 1e-6, 0.1, 0.2, 0.3),
        PositionalConvolution(4, 2),
    ):
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
