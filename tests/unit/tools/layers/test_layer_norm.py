"""Compares layer norm with Keras's, in value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tools.layers.layer_norm import LayerNormalization

WIDTH = 7


@pytest.fixture
def inputs(rng):
    return tf.constant(rng.normal(size=(3, 5, WIDTH)) * 3 + 100, tf.float32)  # far from zero


def outputs_and_gradients(layer, inputs, weights, **options):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, **options)
        total = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
    return outputs, tape.gradient(total, [inputs, *(v.value for v in layer.trainable_variables)])


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("training", [True, False])
def test_value_and_gradient_are_those_of_keras(rng, inputs, policy, training):
    theirs = keras.layers.LayerNormalization(epsilon=1e-2, dtype=policy)
    ours = LayerNormalization(epsilon=1e-2, dtype=policy)
    for layer in (theirs, ours):
        layer.build(inputs.shape)
        layer.gamma.assign(np.linspace(0.5, 2, WIDTH))
        layer.beta.assign(np.linspace(-1, 1, WIDTH))
    weights = tf.constant(rng.normal(size=inputs.shape), tf.float32)
    expected, gradients = outputs_and_gradients(theirs, inputs, weights)
    found, own = outputs_and_gradients(ours, inputs, weights, training=training)
    assert found.dtype == expected.dtype
    found, expected = (tf.cast(x, tf.float32) for x in (found, expected))
    np.testing.assert_allclose(found, expected, atol=2e-4 if policy == "float32" else 0.02)
    for gradient, other in zip(own, gradients, strict=True):
        np.testing.assert_allclose(gradient, other, atol=2e-4 if policy == "float32" else 0.05)


def test_the_gradient_by_finite_differences(rng):
    layer = LayerNormalization(epsilon=1e-3)
    inputs = tf.constant(rng.normal(size=(2, 4)), tf.float32)
    layer.build(inputs.shape)
    layer.gamma.assign([0.5, 1.0, 2.0, -1.0])
    weights = rng.normal(size=(2, 4)).astype("float32")
    _, (gradient, *_) = outputs_and_gradients(layer, inputs, weights, training=True)
    for index in np.ndindex(2, 4):
        step = np.zeros((2, 4), np.float32)
        step[index] = 1e-2
        above, below = (layer(inputs + s * step, training=True) for s in (1, -1))
        slope = tf.reduce_sum((above - below) * weights) / 2e-2
        assert float(gradient[index]) == pytest.approx(float(slope), abs=5e-3)


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"axis": 1}])
def test_other_kinds_of_layer_norm_are_refused(options):
    with pytest.raises(ValueError, match="Expected a scale, an offset and the last axis"):
        LayerNormalization(epsilon=1e-3, **options)


def test_it_trains_in_a_graph_of_unknown_shapes(inputs):
    layer = LayerNormalization(epsilon=1e-2)
    layer.build(inputs.shape)

    @tf.function(input_signature=[tf.TensorSpec([None, None, WIDTH])])
    def gradient(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(tf.sin(layer(inputs, training=True)))
        return tape.gradient(total, inputs)

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(tf.sin(layer(inputs, training=False)))
    np.testing.assert_allclose(gradient(inputs), tape.gradient(total, inputs), atol=2e-4)
