"""Masked batch norm and the convolution module."""

import keras
import numpy as np

from conformer.convolution import ConvolutionModule
from tools.layers.batch_norm import BatchNormalization


def batch_norm(**kwargs):
    layer = BatchNormalization(**{"momentum": 0.99, "epsilon": 1e-3, **kwargs})
    layer.build((None, None, 3))
    return layer


def ragged(rng):
    lengths = np.array([6, 2, 0])
    mask = np.arange(6)[None] < lengths[:, None]
    x = rng.normal(2.0, 3.0, size=(3, 6, 3)).astype("float32")
    x[~mask] = 1e6
    return x, mask


def test_normalizes_by_the_valid_frames_alone(rng):
    x, mask = ragged(rng)
    layer = batch_norm(momentum=0.75)
    y = np.asarray(layer(x, mask, training=True))
    valid = x[mask]
    mean, variance = valid.mean(axis=0), valid.var(axis=0)
    np.testing.assert_allclose(y[mask], (valid - mean) / np.sqrt(variance + 1e-3), atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.75 + 0.25 * variance, rtol=1e-5)


def test_inference_uses_the_moving_statistics(rng):
    x, mask = ragged(rng)
    layer = batch_norm()
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    layer.moving_variance.assign([4.0, 9.0, 16.0])
    y = np.asarray(layer(x, mask, training=False))
    expected = (x[mask] - [1, 2, 3]) / np.sqrt(np.array([4, 9, 16]) + 1e-3)
    np.testing.assert_allclose(y[mask], expected, atol=1e-5)


def test_moments_stay_accurate_far_from_zero(rng):
    x = rng.normal(1000.0, 0.1, size=(4, 50, 3)).astype("float32")
    mask = np.ones((4, 50), bool)
    layer = batch_norm()
    layer.moving_mean.assign([1000.0] * 3)
    layer(x, mask, training=True)
    measured = (np.asarray(layer.moving_variance) - 0.99) / 0.01
    np.testing.assert_allclose(measured, x.astype("float64").var(axis=(0, 1)), rtol=1e-2)


def test_statistics_are_those_of_float32_under_mixed_precision(rng):
    x, mask = ragged(rng)
    x = np.where(mask[..., None], x, 0.0).astype("float16").astype("float32")
    layer = batch_norm(dtype="mixed_float16")
    layer.moving_mean.assign([0.1, 0.2, 0.3])
    assert layer(x, mask, training=True).dtype == "float16"
    expected = 0.99 * np.array([0.1, 0.2, 0.3]) + 0.01 * x[mask].mean(axis=0)
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-5)
    expected = 0.99 + 0.01 * x[mask].var(axis=0)
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-5)


def test_moments_summed_over_ranks_equal_one_large_batch(rng):
    """Simulates two ranks: each call gets the sums of the other rank."""
    x, mask = ragged(rng)
    whole = batch_norm()
    expected = np.asarray(whole(x, mask, training=True))
    sums = []
    for part in (slice(0, 1), slice(1, 3)):
        probe = batch_norm()
        probe.sum_over_ranks = lambda s: sums.append(np.asarray(s)) or s
        probe(x[part], mask[part], training=True)
    for part in (slice(0, 1), slice(1, 3)):
        rank = batch_norm()
        rank.sum_over_ranks = lambda s: keras.ops.convert_to_tensor(sums[0] + sums[1])
        y = np.asarray(rank(x[part], mask[part], training=True))
        np.testing.assert_allclose(y[mask[part]], expected[part][mask[part]], atol=1e-5)
        np.testing.assert_allclose(rank.moving_variance, whole.moving_variance, rtol=1e-6)


def test_a_batch_of_nothing_but_padding_keeps_the_statistics_finite():
    layer = batch_norm()
    layer(np.full((1, 4, 3), np.nan, "float32"), np.zeros((1, 4), bool), training=True)
    assert np.all(np.isfinite(layer.moving_variance))


def test_module_sees_no_padding(rng):
    module = ConvolutionModule(kernel_size=32)
    module.build((None, None, 8))
    x = rng.normal(size=(1, 20, 8)).astype("float32")
    alone = np.asarray(module(x, np.ones((1, 20), bool)))
    longer = np.concatenate([x, np.full((1, 30, 8), 7.0, "float32")], axis=1)
    padded = np.asarray(module(longer, np.arange(50)[None] < 20))
    np.testing.assert_allclose(padded[:, :20], alone, atol=1e-5)


def test_even_kernel_sees_one_more_future_frame():
    module = ConvolutionModule(kernel_size=4, dropout_rate=0.0)
    module.build((None, None, 2))
    x = np.zeros((1, 11, 2), "float32")
    mask = np.ones((1, 11), bool)
    base = np.asarray(module(x, mask))
    x[0, 5] = 1.0
    touched = np.abs(np.asarray(module(x, mask)) - base).max(axis=(0, 2)) > 1e-7
    assert np.flatnonzero(touched).tolist() == [3, 4, 5, 6]
