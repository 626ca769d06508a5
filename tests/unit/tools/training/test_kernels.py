"""Kernels of layers: dropout, and the gradient of the kernel of a convolution."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from conformer.prediction import PredictionNetwork
from conformer.subsampling import Convolution
from tools.layers.dropout import Dropout
from tools.training.kernels import choose_kernels


def chosen(*layers):
    model = keras.Sequential([keras.Input((None,)), *layers])
    choose_kernels(model)
    return layers[0] if len(layers) == 1 else layers


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(100, 101), (3, 7, 11)])
def test_dropout_keeps_the_mean_and_drops_its_share(rate, shape):
    layer = chosen(Dropout(rate, seed=1))
    x = tf.ones(shape)
    draws = [layer(x, training=True).numpy() for _ in range(20)]
    dropped = np.mean([draw == 0 for draw in draws])
    count = 20 * np.prod(shape)
    assert dropped == pytest.approx(rate, abs=4 * (rate * (1 - rate) / count) ** 0.5 + 1e-5)
    kept = np.concatenate([draw[draw != 0] for draw in draws])
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=2e-4)
    assert not np.array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_neighbors_are_dropped_independently():
    layer = chosen(Dropout(0.5, seed=1))
    kept = layer(tf.ones((1000, 200)), training=True).numpy() != 0
    for shifted in (kept[:, 1:] == kept[:, :-1], kept[1:] == kept[:-1]):
        assert np.mean(shifted) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_gradient_is_that_of_the_values_that_were_kept(dtype):
    layer = chosen(Dropout(0.3, seed=2, dtype=dtype))
    x = tf.constant(np.linspace(1, 2, 35).reshape(5, 7), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        total = tf.reduce_sum(y * x)
    gradient = tape.gradient(total, x)
    assert y.dtype == gradient.dtype == x.dtype
    np.testing.assert_allclose(gradient, 2 * y, rtol=1e-5 if dtype == "float32" else 2e-3)


def test_seeds_and_calls_determine_the_draws():
    first, again = (chosen(Dropout(0.5, seed=3)) for _ in range(2))
    x = tf.ones((4, 5))
    for _ in range(2):
        np.testing.assert_array_equal(first(x, training=True), again(x, training=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("frames", "bins"), [(3, 3), (8, 6), (9, 7), (7, 10), (12, 5)])
def test_the_gradient_of_a_kernel_by_products(rng, frames, bins, dtype):
    x = tf.constant(rng.normal(size=(2, frames, bins, 3)), dtype)
    found = []
    for by_products in (False, True):
        layer = Convolution(4, 3, 2, padding="valid", activation="relu", product_dtype=dtype)
        layer.build(x.shape)
        layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
        layer.bias.assign([0.1, -0.2, 0.3, 0.0])
        layer.kernel_gradient_by_products = by_products

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, bins, 3], dtype)])
        def gradients(x, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
                total = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
            return [y, *tape.gradient(total, [x, layer.kernel.value, layer.bias.value])]

        found.append([tf.cast(value, tf.float32).numpy() for value in gradients(x)])
    for ours, expected in zip(found[1], found[0], strict=True):
        scale = np.abs(expected).max()
        tolerance = 1e-5 if dtype == "float32" else 0.02
        np.testing.assert_allclose(ours, expected, atol=tolerance * scale)


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_gpu_keeps_the_kernels_of_keras(monkeypatch, gpus):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind] * gpus)
    layer = Convolution(4, 3, 2, padding="valid", product_dtype="float32")
    dropout = Dropout(0.5)
    choose_kernels(keras.Sequential([keras.Input((None, 6, 3)), layer, dropout]))
    assert layer.kernel_gradient_by_products == (gpus == 0)
    assert (dropout.drop_kernel is None) == (gpus > 0)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("num_labels", [2, 7])
def test_an_lstm_has_the_values_and_gradients_of_keras(rng, policy, num_labels):
    keras.utils.set_random_seed(1)
    tokens = tf.constant(rng.integers(0, 9, (3, num_labels)))
    states = tf.constant(rng.normal(size=(3, 4, 5)), "float32")
    # The last state has weights of its own, so that the gradient has both ways into the loop.
    shapes = (3, num_labels, 5), (3, 4, 5)
    weights = [tf.constant(rng.normal(size=shape), "float32") for shape in shapes]
    layer = PredictionNetwork(9, 5, num_layers=2, dtype=policy)
    layer.build((None, None))
    for lstm in layer.lstms:
        lstm.cell.bias.assign(rng.normal(size=20))
    found = []
    for _ in range(2):

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, None], tokens.dtype),
                tf.TensorSpec([None, 4, 5]),
            ],
        )
        def run(tokens, states):
            with tf.GradientTape() as tape:
                tape.watch(states)
                outputs = layer(tokens, tf.cast(states, layer.compute_dtype))
                outputs = [tf.cast(x, tf.float32) for x in outputs]
                total = sum(tf.reduce_sum(x * w) for x, w in zip(outputs, weights, strict=True))
            inputs = [states, *(v.value for v in layer.trainable_variables)]
            return outputs, [tf.convert_to_tensor(x) for x in tape.gradient(total, inputs)]

        found.append(tf.nest.flatten(run(tokens, states)))
        chosen(layer)
    assert layer.lstm_kernel is not None
    for expected, ours in zip(*found, strict=True):
        tolerance = 1e-5 if policy == "float32" else 0.03
        np.testing.assert_allclose(ours, expected, atol=tolerance * np.abs(expected).max())
