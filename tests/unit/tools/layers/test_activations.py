"""Compares swish with its definition in float64, in value and gradient."""

import numpy as np
import pytest
import tensorflow as tf

from tools.layers.activations import silu


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
@pytest.mark.parametrize("training", [True, False])
def test_value_and_gradient_are_those_of_the_definition(dtype, tolerance, training):
    x = np.array([-100.0, -5.0, -1.25, 0.0, 0.5, 3.0, 100.0])
    share = 1.0 / (1.0 + np.exp(-x))
    inputs, weights = tf.constant(x, dtype), tf.constant(np.linspace(1, 2, 7), dtype)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = silu(inputs, training=training)
        total = tf.reduce_sum(outputs * weights)
    slope = share * (1.0 + x * (1.0 - share)) * np.linspace(1, 2, 7)
    assert outputs.dtype == inputs.dtype
    for found, expected in ((outputs, x * share), (tape.gradient(total, inputs), slope)):
        np.testing.assert_allclose(
            tf.cast(found, "float64"), expected, atol=tolerance, rtol=tolerance
        )
