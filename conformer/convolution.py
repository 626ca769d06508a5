"""The convolution module of a Conformer block, with batch norm that never sees padding."""

import keras
from keras import ops


class MaskedBatchNormalization(keras.layers.Layer):
    """Batch normalization over the valid frames only, optionally over the batches of all ranks.

    Moments are those of deviations from the moving mean, so a single pass over the frames stays
    accurate in float32. Float32 inside under every policy. Keeps length and mask.

    Args:
        momentum: weight of the old moving statistics.
        epsilon: added to the variance.

    Attributes:
        sum_over_ranks: function `[N] -> [N]` that adds a vector over all ranks and is
            differentiable; None normalizes each rank by its own batch.

    Source: Ioffe and Szegedy, Batch normalization (2015), with masked moments.
    """

    def __init__(self, momentum=0.99, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.sum_over_ranks = None

    def build(self, inputs_shape):
        """Builds for inputs of `[B, T, D]`."""
        shape = (inputs_shape[-1],)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones", autocast=False)
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros", autocast=False)
        self.moving_mean, self.moving_variance = (
            self.add_weight(
                name=name, shape=shape, initializer=initializer, trainable=False, autocast=False
            )
            for name, initializer in (("moving_mean", "zeros"), ("moving_variance", "ones"))
        )
        self.built = True

    def call(self, inputs, frame_mask, training=False):
        """Normalizes.

        Args:
            inputs: `[B, T, D]`.
            frame_mask: `[B, T]` bool, True at valid frames.
            training: whether to use (and follow) the batch's own moments.

        Returns:
            `[B, T, D]`, meaningless at padded frames.
        """
        x = ops.cast(inputs, "float32")
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            mean, variance = self._moments(x, frame_mask)
            for moving, batch in (
                (self.moving_mean, mean),
                (self.moving_variance, variance),
            ):
                moving.assign(
                    self.momentum * moving + (1.0 - self.momentum) * ops.stop_gradient(batch)
                )
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast(x * scale + (self.beta - mean * scale), self.compute_dtype)

    def _moments(self, x, frame_mask):
        shift = ops.stop_gradient(ops.convert_to_tensor(self.moving_mean))
        deviation = ops.where(frame_mask[:, :, None], x - shift, 0.0)
        sums = ops.concatenate(
            [
                ops.sum(deviation, axis=(0, 1)),
                ops.sum(ops.square(deviation), axis=(0, 1)),
                ops.reshape(ops.sum(ops.cast(frame_mask, "float32")), (1,)),
            ],
            axis=0,
        )
        if self.sum_over_ranks is not None:
            sums = self.sum_over_ranks(sums)
        width = x.shape[-1]
        count = ops.maximum(sums[2 * width :], 1.0)
        offset = sums[:width] / count
        variance = sums[width : 2 * width] / count - ops.square(offset)
        return shift + offset, ops.maximum(variance, 0.0)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }


class ConvolutionModule(keras.layers.Layer):
    """Pointwise convolution, GLU, depthwise convolution, batch norm, swish, pointwise convolution.

    Frames beyond the mask are zeroed before the depthwise convolution, so its "same" padding and a
    batch's padding are the same zeros. Keeps the length.

    Args:
        kernel_size: frames seen by the depthwise convolution; an even one sees one more future
            frame than past ones.
        dropout_rate: dropout at the end.

    Source: Gulati et al., Conformer (2020), section 2.2.
    """

    def __init__(self, kernel_size, dropout_rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.dropout_rate = dropout_rate

    def build(self, inputs_shape):
        """Builds for inputs of `[B, T, D]`."""
        width = inputs_shape[-1]
        # A pointwise convolution is a dense layer over the channels.
        self.expansion = keras.layers.Dense(2 * width, dtype=self.dtype_policy, name="expansion")
        self.expansion.build(inputs_shape)
        # TensorFlow 2.16 crashes in DepthwiseConv1D from kernel 13 up on AVX-512 machines: the same
        # as a DepthwiseConv2D over [B, T, 1, D], until TensorFlow 2.18 can be had.
        self.depthwise = keras.layers.DepthwiseConv2D(
            (self.kernel_size, 1), padding="same", dtype=self.dtype_policy, name="depthwise"
        )
        self.depthwise.build((None, None, 1, width))
        self.normalization = MaskedBatchNormalization(dtype=self.dtype_policy, name="normalization")
        self.normalization.build(inputs_shape)
        self.projection = keras.layers.Dense(width, dtype=self.dtype_policy, name="projection")
        self.projection.build(inputs_shape)
        self.dropout = keras.layers.Dropout(self.dropout_rate, dtype=self.dtype_policy)
        self.built = True

    def call(self, inputs, frame_mask, training=False):
        """Convolves.

        Args:
            inputs: `[B, T, D]`.
            frame_mask: `[B, T]` bool, True at valid frames.
            training: whether dropout and batch moments are active.

        Returns:
            `[B, T, D]`.
        """
        values, gates = ops.split(self.expansion(inputs), 2, axis=-1)
        x = values * ops.sigmoid(gates)
        x = ops.where(frame_mask[:, :, None], x, ops.cast(0, x.dtype))
        x = ops.squeeze(self.depthwise(ops.expand_dims(x, 2)), 2)
        x = ops.silu(self.normalization(x, frame_mask, training=training))
        return self.dropout(self.projection(x), training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "dropout_rate": self.dropout_rate,
        }
