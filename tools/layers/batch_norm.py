"""Batch normalization that ignores padding and can use the batches of all ranks."""

import keras
from keras import ops


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization of the last axis, with moments over valid positions only.

    Computes in float32 under every dtype policy. A layer with `trainable=False` uses its moving
    statistics and does not update them. The output has the length of the input.

    Args:
        momentum: weight of the old value in the moving statistics, 0 to 1.
        epsilon: added to the variance.
        zero_init: whether the scale is initialized to 0 instead of 1.

    Attributes:
        sum_over_ranks: differentiable function `[N] -> [N]` that sums a vector over all ranks.
            With None, each rank is normalized with the statistics of its own batch.
        normalize_batch: optional fused kernel for a rank's own batch without a mask: a function of
            inputs `[..., C]`, scale `[C]`, offset `[C]` and epsilon that returns the outputs, the
            mean and the variance. With None, Keras operations compute them.

    Source: Ioffe and Szegedy, Batch normalization (2015), with masked moments.
    """

    def __init__(self, momentum, epsilon, zero_init=False, **kwargs):
        super().__init__(
            momentum=momentum,
            epsilon=epsilon,
            gamma_initializer="zeros" if zero_init else "ones",
            **kwargs,
        )
        self.zero_init = zero_init
        self.sum_over_ranks = None
        self.normalize_batch = None

    def call(self, inputs, mask=None, training=False):
        """Normalizes the inputs.

        Args:
            inputs: `[..., C]`.
            mask: `[...]` bool, True at valid positions; None if all positions are valid.
            training: whether to use the moments of the batch, and to update the moving statistics.

        Returns:
            `[..., C]`. Values outside the mask are undefined.
        """
        follows = training and self.trainable
        own_kernel = self.sum_over_ranks is None and self.normalize_batch is not None
        if mask is None and not follows:
            return super().call(inputs, training=training)
        x = ops.cast(inputs, "float32")
        if not follows:
            outputs = self._scaled(x, self.moving_mean, self.moving_variance)
            return ops.cast(outputs, self.compute_dtype)
        if mask is None and own_kernel:
            outputs, mean, variance = self.normalize_batch(x, self.gamma, self.beta, self.epsilon)
        else:
            mean, variance = self._moments(x, mask)
            outputs = self._scaled(x, mean, variance)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            batch = ops.stop_gradient(batch)
            moving.assign(self.momentum * moving + (1.0 - self.momentum) * batch)
        return ops.cast(outputs, self.compute_dtype)

    def _scaled(self, x, mean, variance):
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return x * scale + (self.beta - mean * scale)

    def _moments(self, x, mask):
        # Sum the squared differences from the rank's own mean, and the distance of that mean from
        # the moving mean. Neither loses precision if the mean is far from zero.
        axes, width = tuple(range(len(x.shape) - 1)), x.shape[-1]
        if mask is None:
            count = ops.cast(ops.prod(ops.shape(x)[:-1]), "float32")
            mean = ops.mean(x, axes)
            squares = ops.sum(ops.square(x - mean), axes)
        else:
            inside = ops.expand_dims(mask, -1)
            count = ops.sum(ops.cast(mask, "float32"))
            mean = ops.sum(ops.where(inside, x, 0.0), axes) / ops.maximum(count, 1.0)
            squares = ops.sum(ops.square(ops.where(inside, x - mean, 0.0)), axes)
        shift = ops.stop_gradient(ops.convert_to_tensor(self.moving_mean))
        distance = mean - shift
        sums = [count * distance, squares + count * ops.square(distance), ops.reshape(count, (1,))]
        sums = ops.concatenate(sums)
        if self.sum_over_ranks is not None:
            sums = self.sum_over_ranks(sums)
        count = ops.maximum(sums[2 * width :], 1.0)
        offset = sums[:width] / count
        variance = sums[width : 2 * width] / count - ops.square(offset)
        return shift + offset, ops.maximum(variance, 0.0)

    def get_config(self):
        """Returns the arguments of the constructor."""
        inherited = super().get_config()
        names = ("name", "dtype", "trainable", "momentum", "epsilon")
        return {**{name: inherited[name] for name in names}, "zero_init": self.zero_init}
