"""Kernels that replace slower operations of layers in training on a CPU."""

import keras
import tensorflow as tf

_BITS = 16  # random bits for each value of a dropout


def on_cpu() -> bool:
    """Returns whether TensorFlow computes on a CPU, because no GPU is visible."""
    return not tf.config.get_visible_devices("GPU")


def choose_kernels(model: keras.Model) -> None:
    """Sets the kernels of a built model's layers for a CPU; does nothing if there is a GPU.

    Layers with the attribute `drop_kernel` (`tools.layers.dropout.Dropout`) get `drop`. Layers with
    the attribute `kernel_gradient_by_products` compute the gradient of their kernel by matrix
    products: the gradient of a convolution in TensorFlow 2.16 takes 2.5 times as long on a CPU.

    Args:
        model: built model.
    """
    if not on_cpu():
        return
    for layer in model._flatten_layers():
        if hasattr(layer, "drop_kernel"):
            layer.drop_kernel = drop
        if hasattr(layer, "kernel_gradient_by_products"):
            layer.kernel_gradient_by_products = True


def drop(x: tf.Tensor, rate: float, seed: keras.random.SeedGenerator) -> tf.Tensor:
    """Applies dropout with 16 random bits for each value, half as many as Keras draws.

    The rate is rounded to a multiple of 1 / 65536, and the factor of the other values is that of
    the rounded rate. For the gradient, one byte for each value is kept.

    Args:
        x: values of any shape.
        rate: probability of a value to be set to zero, from 0 to below 1.
        seed: generator of seeds.
    """
    threshold = min(round(rate * 2**_BITS), 2**_BITS - 1)
    size = tf.size(x)
    words = tf.random.stateless_uniform([(size + 1) // 2], seed.next(), None, None, tf.uint32)
    bits = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:size]
    keep = tf.reshape(bits >= tf.constant(threshold, tf.uint16), tf.shape(x))
    factor = tf.cast(2**_BITS / (2**_BITS - threshold), x.dtype)

    @tf.custom_gradient
    def dropped(x):
        def gradient(upstream):
            # Without the dependency, the factors would be computed, and kept, in the forward pass.
            with tf.control_dependencies([upstream]):
                kept = tf.cast(keep, upstream.dtype)
            return upstream * factor * kept

        return x * factor * tf.cast(keep, x.dtype), gradient

    return dropped(x)
