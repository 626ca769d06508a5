"""Compares the convolutions over the waveform with naive implementations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from wav2vec2.feature_encoder import (
    EPSILON,
    FeatureConvolution,
    FeatureEncoder,
    FeatureProjection,
    WaveformConvolution,
    num_frames,
)


def naive_convolution(x, kernel, stride):
    """Convolves `[T, C]` by `[kernel_size, C, filters]` without padding, in float64."""
    starts = range(0, len(x) - len(kernel) + 1, stride)
    return np.stack([np.tensordot(x[i : i + len(kernel)], kernel, 2) for i in starts])


def naive_group_norm(x, gamma, beta):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON) * gamma + beta


@pytest.fixture
def waveform_convolution(rng):
    layer = WaveformConvolution(24, 10, 5)
    layer.build((None, 1, None, 1))
    for variable in layer.weights:
        variable.assign(rng.standard_normal(variable.shape))
    return layer


def expected(layer, waveform):
    kernel, gamma, beta = (np.asarray(x, "float64") for x in layer.weights)
    x = naive_convolution(waveform.astype("float64")[:, None], kernel, layer.stride)
    return naive_group_norm(x, gamma, beta)


@pytest.mark.parametrize(("kernel_size", "stride"), [(10, 5), (7, 3), (4, 4), (3, 1)])
def test_group_norm_is_the_naive_one(kernel_size, stride, rng):
    layer = WaveformConvolution(6, kernel_size, stride)
    layer.build((None, 1, None, 1))
    waveforms = rng.standard_normal((2, 203)).astype("float32") + 0.5
    outputs = layer(waveforms[:, None, :, None])
    for output, waveform in zip(outputs, waveforms, strict=True):
        np.testing.assert_allclose(output[0], expected(layer, waveform), atol=1e-5)


def test_masked_group_norm_is_that_of_the_valid_frames(waveform_convolution, rng):
    waveforms = rng.standard_normal((2, 203)).astype("float32")
    frames, valid = 39, 20
    mask = np.arange(frames) < np.array([[frames], [valid]])
    waveforms[1, valid * 5 + 5 :] = np.nan
    outputs = np.asarray(waveform_convolution(waveforms[:, None, :, None], mask))[:, 0]
    np.testing.assert_allclose(outputs[0], expected(waveform_convolution, waveforms[0]), atol=1e-5)
    alone = expected(waveform_convolution, waveforms[1, : valid * 5 + 5])
    np.testing.assert_allclose(outputs[1, :valid], alone, atol=1e-5)
    beta = np.broadcast_to(waveform_convolution.beta, (frames - valid, 24))
    np.testing.assert_array_equal(outputs[1, valid:], beta)


def test_a_sound_without_high_frequencies_keeps_its_quiet_channels(waveform_convolution, rng):
    """A filter whose output has a variance of a millionth of that of the samples."""
    time = np.arange(16000)
    waveform = sum(np.sin(2 * np.pi * hz / 16000 * time + hz) for hz in range(50, 2000, 130))
    waveform = (waveform / waveform.std() + 1e-3 * rng.standard_normal(16000)).astype("float32")
    kernel = rng.standard_normal((10, 1, 24))
    kernel[:, 0, 0] = np.linalg.eigh(
        np.cov(np.lib.stride_tricks.sliding_window_view(waveform, 10).T)
    )[1][:, 0]
    waveform_convolution.kernel.assign(kernel)
    output = waveform_convolution(waveform[None, None, :, None])[0, 0]
    np.testing.assert_allclose(output, expected(waveform_convolution, waveform), atol=2e-3)


def test_gradients_are_those_of_the_long_way(waveform_convolution, rng):
    waveforms = rng.standard_normal((2, 1, 105, 1)).astype("float32")
    target = rng.standard_normal((2, 1, 20, 24)).astype("float32")
    variables = [x.value for x in waveform_convolution.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        kernel, gamma, beta = (tf.convert_to_tensor(x) for x in variables)
        tape.watch([kernel, gamma, beta])
        x = tf.nn.conv2d(waveforms, kernel[None], [1, 1, 5, 1], "VALID")
        mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
        x = (x - mean) * tf.math.rsqrt(variance + EPSILON) * gamma + beta
        long_way = tf.reduce_sum(x * target)
        ours = tf.reduce_sum(waveform_convolution(waveforms) * target)
    wanted = tape.gradient(long_way, [kernel, gamma, beta])
    for x, y in zip(tape.gradient(ours, variables), wanted, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_convolution_is_the_naive_one(normalize, rng):
    layer = FeatureConvolution(6, 3, 2, use_bias=True, normalize=normalize)
    layer.build((None, 1, None, 4))
    layer.bias.assign(rng.standard_normal(6))
    inputs = rng.standard_normal((1, 1, 20, 4)).astype("float32")
    x = naive_convolution(inputs[0, 0], np.asarray(layer.kernel), 2) + np.asarray(layer.bias)
    if normalize:
        x = naive_group_norm(x.T, 1.0, 0.0).T
    np.testing.assert_allclose(layer(inputs)[0, 0], keras.ops.gelu(x, False), atol=1e-5)


def test_biases_with_group_norm_are_those_behind_the_first_convolution(rng):
    layer = FeatureEncoder("group", (3, 4), (5, 3), (2, 2), use_bias=True)
    layer.build((None, None))
    assert len(layer.weights) == 3 + 2
    first, second = layer.blocks
    second.bias.assign(rng.standard_normal(4))
    waveforms = rng.standard_normal((1, 40)).astype("float32")
    inside = np.asarray(keras.ops.gelu(first(waveforms[:, None, :, None]), False))
    x = naive_convolution(inside[0, 0], np.asarray(second.kernel), 2) + np.asarray(second.bias)
    np.testing.assert_allclose(layer(waveforms)[0], keras.ops.gelu(x, False), atol=1e-5)


def test_lengths_are_those_of_the_outputs(kind):
    sizes = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
    layer = FeatureEncoder(kind, (2,) * 7, *sizes, use_bias=kind == "layer")
    samples = [400, 719, 720, 1039, 1040, 4321]
    frames = [layer(np.zeros((1, x), "float32")).shape[1] for x in samples]
    assert num_frames(np.array(samples), *sizes).numpy().tolist() == frames == [1, 1, 2, 2, 3, 13]
    assert num_frames(np.array([0, 9, 399]), *sizes).numpy().tolist() == [0, 0, 0]


def test_projection_is_the_naive_one_and_dropout_is_behind_it(rng):
    layer = FeatureProjection(32, epsilon=0.3, dropout_rate=0.75)
    layer.build((None, None, 6))
    for variable in layer.weights:
        variable.assign(rng.standard_normal(variable.shape))
    gamma, beta, kernel, bias = (np.asarray(x, "float64") for x in layer.weights)
    x = rng.standard_normal((2, 50, 6))
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.3)
    wanted = (wanted * gamma + beta) @ kernel + bias
    inputs = x.astype("float32")
    np.testing.assert_allclose(layer(inputs), wanted, atol=1e-4)
    found = np.asarray(layer(inputs, training=True))
    kept = found != 0
    np.testing.assert_allclose(found, np.where(kept, 4.0 * wanted, 0.0), atol=1e-3)
    assert kept.mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("normalize", [False, True])
def test_kernels_start_with_the_variance_that_he_gives(normalize):
    layer = FeatureConvolution(64, 3, 2, use_bias=True, normalize=normalize)
    layer.build((None, 1, None, 48))
    kernel = np.asarray(layer.kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (3 * 48)), rel=0.05)
    assert not np.any(layer.bias)


def test_configs_rebuild_the_layers():
    for layer in (
        FeatureEncoder("layer", (2, 3), (5, 4), (3, 2), use_bias=True),
        FeatureConvolution(3, 5, 2, True, normalize=True),
        WaveformConvolution(3, 5, 2),
        FeatureProjection(8, 0.3, 0.1),
    ):
        config = layer.get_config()
        again = type(layer).from_config(config)
        assert again.get_config() == config
