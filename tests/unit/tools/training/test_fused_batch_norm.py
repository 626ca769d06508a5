"""The fused batch norm against moments and normalization written plainly."""

import numpy as np
import pytest
import tensorflow as tf

from tools.training.fused_batch_norm import fused_batch_norm

EPSILON = 1e-6


def plain(x, scale, offset):
    axes = list(range(len(x.shape) - 1))
    mean = tf.reduce_mean(x, axes)
    variance = tf.reduce_mean(tf.square(x - mean), axes)
    return scale * (x - mean) / tf.sqrt(variance + EPSILON) + offset, mean, variance


@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (3, 7, 5), (9, 5), (1, 1, 1, 5)])
@pytest.mark.parametrize("center", [0.0, 20.0])
def test_equals_the_definition_in_values_and_gradients(rng, shape, center):
    x = tf.constant(rng.normal(center, 2.0, shape), tf.float32)
    scale, offset = (tf.constant(rng.normal(size=5), tf.float32) for _ in range(2))
    wanted = tf.constant(rng.normal(size=shape), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, *shape[1:]])])  # a free batch
    def ours(x):
        return fused_batch_norm(x, scale, offset, EPSILON)

    found = []
    for function, values in ((ours, x), (lambda x: plain(x, scale, offset), x)):
        with tf.GradientTape() as tape:
            tape.watch([values, scale, offset])
            outputs, mean, variance = function(values)
            loss = tf.reduce_sum(wanted * outputs)
        gradients = tape.gradient(loss, [values, scale, offset])
        found.append((outputs, mean, variance, *gradients))
    for mine, expected in zip(*found, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=2e-4)


def test_values_that_are_not_finite_stay_visible():
    x = np.ones((2, 3, 3, 2), np.float32)
    x[0, 0, 0, 0] = np.nan
    outputs, mean, _ = fused_batch_norm(tf.constant(x), tf.ones(2), tf.zeros(2), EPSILON)
    assert np.all(np.isnan(outputs[..., 0]))
    np.testing.assert_array_equal(np.isnan(mean), [True, False])
    np.testing.assert_allclose(outputs[..., 1], 0.0, atol=1e-6)
