"""The convolution module of a Conformer block, with batch norm that never sees padding."""

import keras
from keras import ops

from tools.layers.batch_norm import BatchNormalization

BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON = 0.99, 1e-3


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
        self.normalization = BatchNormalization(
            BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON, dtype=self.dtype_policy, name="normalization"
        )
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
