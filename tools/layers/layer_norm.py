"""Layer normalization whose gradient is computed in closed form."""

import keras
from keras import ops


class LayerNormalization(keras.layers.LayerNormalization):
    """Layer normalization of the last axis, in float32 under every dtype policy.

    In training, the gradient is computed in closed form. It takes less than half the time of the
    gradient that TensorFlow derives, which stores and reads about twice as many arrays.

    Args:
        epsilon: added to the variance.

    Source: Ba et al., Layer normalization (2016); variables and values are those of
    `keras.layers.LayerNormalization` of Keras 3.
    """

    def __init__(self, epsilon, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)
        if not (self.scale and self.center) or self.axis not in (-1, [-1]):
            raise ValueError(
                "Expected a scale, an offset and the last axis. "
                f"Received: scale={self.scale}, center={self.center}, axis={self.axis}."
            )

    def call(self, inputs, training=False):
        """Normalizes inputs `[..., C]`; returns the same shape."""
        if not training:
            return super().call(inputs)
        outputs = _normalize(ops.cast(inputs, "float32"), self.gamma, self.beta, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)


def _normalize(inputs, scale, offset, epsilon):
    @ops.custom_gradient
    def normalize(x, scale, offset):
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        inverse = ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + epsilon)
        normal = centred * inverse

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            axes = tuple(range(len(x.shape) - 1))
            product = upstream * normal
            by_normal = upstream * scale
            along = ops.mean(by_normal * normal, axis=-1, keepdims=True)
            shift = ops.mean(by_normal, axis=-1, keepdims=True)
            by_x = inverse * (by_normal - shift - normal * along)
            return by_x, ops.sum(product, axis=axes), ops.sum(upstream, axis=axes)

        return normal * scale + offset, gradient

    # A custom gradient takes tensors, not variables. `copy` reads a variable.
    return normalize(inputs, ops.copy(scale), ops.copy(offset))
