"""Convolution module of a Conformer block. Its batch norm leaves padded frames out."""

import keras
from keras import ops

from tools.layers.activations import silu
from tools.layers.batch_norm import BatchNormalization
from tools.layers.dropout import Dropout
from tools.layers.layer_norm import LayerNormalization
from tools.layers.rows import Rows

BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON = 0.99, 1e-3


class ConvolutionModule(keras.layers.Layer):
    """Pointwise convolution, GLU, depthwise convolution, norm, swish, pointwise convolution.

    Padded frames are set to zero before the depthwise convolution, so that an utterance gives the
    same output alone and in a padded batch. The output has as many frames as the input.

    Args:
        kernel_size: kernel size of the depthwise convolution in frames. A kernel of even size
            covers one future frame more than past frames.
        dropout_rate: rate of the dropout after the last convolution.
        use_bias: whether the three convolutions have a bias.
        norm: `"batch"` or `"layer"`.
        epsilon: added to the variance by the norm.

    Source: Gulati et al., Conformer (2020), section 2.2; layer norm as in NeMo's `conv_norm_type`.
    """

    def __init__(
        self,
        kernel_size,
        dropout_rate=0.1,
        *,
        use_bias=True,
        norm="batch",
        epsilon=BATCH_NORM_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.dropout_rate = dropout_rate
        self.use_bias = use_bias
        self.norm = norm
        self.epsilon = epsilon
        if norm not in ("batch", "layer"):
            raise ValueError(f"Expected norm batch or layer. Received: {norm}.")

    def build(self, inputs_shape):
        """Creates the variables for inputs `[B, T, D]`."""
        width = inputs_shape[-1]
        shared = {"use_bias": self.use_bias, "dtype": self.dtype_policy}
        # A pointwise convolution is a dense layer over the channels.
        self.expansion = keras.layers.Dense(2 * width, name="expansion", **shared)
        self.expansion.build(inputs_shape)
        # TensorFlow 2.16 crashes in DepthwiseConv1D with kernels of 13 and more frames on AVX-512
        # machines. DepthwiseConv2D over [B, T, 1, D] computes the same. Replace it when the
        # project requires TensorFlow 2.18.
        self.depthwise = keras.layers.DepthwiseConv2D(
            (self.kernel_size, 1), padding="same", name="depthwise", **shared
        )
        self.depthwise.build((None, None, 1, width))
        normalization = {"dtype": self.dtype_policy, "name": "normalization"}
        self.normalization = (
            BatchNormalization(BATCH_NORM_MOMENTUM, self.epsilon, **normalization)
            if self.norm == "batch"
            else LayerNormalization(self.epsilon, **normalization)
        )
        self.normalization.build(inputs_shape)
        self.projection = keras.layers.Dense(width, name="projection", **shared)
        self.projection.build(inputs_shape)
        self.dropout = Dropout(self.dropout_rate, dtype=self.dtype_policy)
        self.built = True

    def call(self, inputs, frame_mask, training=False):
        """Applies the module.

        Args:
            inputs: `[B, T, D]`.
            frame_mask: `[B, T]` bool, True at valid frames.
            training: whether dropout is active and batch norm uses the moments of the batch.

        Returns:
            `[B, T, D]`.
        """
        layout = Rows(inputs, training)
        values, gates = ops.split(self.expansion(layout.rows(inputs)), 2, axis=-1)
        x = layout.batch(values * ops.sigmoid(gates))
        x = ops.where(frame_mask[:, :, None], x, ops.cast(0, x.dtype))
        x = ops.squeeze(self.depthwise(ops.expand_dims(x, 2)), 2)
        if self.norm == "batch":
            x = self.normalization(x, frame_mask, training=training)
        else:
            x = self.normalization(x, training=training)
        x = silu(layout.rows(x), training=training)
        return layout.batch(self.dropout(self.projection(x), training=training))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "dropout_rate": self.dropout_rate,
            "use_bias": self.use_bias,
            "norm": self.norm,
            "epsilon": self.epsilon,
        }
