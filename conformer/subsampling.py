"""Convolution subsampling: reduces the number of frames by a factor of 4 or 8."""

import keras
from keras import ops

from tools.layers.masking import sequence_mask


class Convolution(keras.layers.Conv2D):
    """A convolution whose bias and activation are float32 under every dtype policy.

    The gradient of the bias is a sum over all frames and bins of a batch, and would overflow in
    float16 before any other gradient does: where SpecAugment sets features to zero, every output
    with a positive bias contributes to it.

    Args:
        *args: arguments of `keras.layers.Conv2D`.
        product_dtype: dtype of the product with the kernel, and of the output.
        **kwargs: arguments of `keras.layers.Conv2D`, without `dtype`.
    """

    def __init__(self, *args, product_dtype, **kwargs):
        super().__init__(*args, dtype="float32", **kwargs)
        self.product_dtype = product_dtype

    def call(self, inputs):
        """Computes the convolution of `[B, T, F, C]`."""
        inputs, kernel = (ops.cast(x, self.product_dtype) for x in (inputs, self.kernel))
        x = ops.cast(self.convolution_op(inputs, kernel), "float32")
        return ops.cast(self.activation(x + self.bias), self.product_dtype)

    def get_config(self):
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "product_dtype": self.product_dtype}
        del config["dtype"]
        return config


class DepthwiseConvolution(keras.layers.DepthwiseConv2D):
    """A depthwise convolution whose bias is float32 under every dtype policy; see `Convolution`.

    Args:
        *args: arguments of `keras.layers.DepthwiseConv2D`.
        product_dtype: dtype of the product with the kernel, and of the output.
        **kwargs: arguments of `keras.layers.DepthwiseConv2D`, without `dtype`.
    """

    def __init__(self, *args, product_dtype, **kwargs):
        super().__init__(*args, dtype="float32", **kwargs)
        self.product_dtype = product_dtype

    def call(self, inputs):
        """Computes the convolution of `[B, T, F, C]`."""
        inputs, kernel = (ops.cast(x, self.product_dtype) for x in (inputs, self.kernel))
        x = ops.depthwise_conv(inputs, kernel, self.strides, self.padding)
        return ops.cast(ops.cast(x, "float32") + self.bias, self.product_dtype)

    def get_config(self):
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "product_dtype": self.product_dtype}
        del config["dtype"]
        return config


class ConvolutionSubsampling(keras.layers.Layer):
    """3x3 convolutions with stride 2 and ReLU, then a dense layer and dropout.

    There are two convolutions for factor 4, and three for factor 8.

    Each convolution pads one frame and one bin on each side. With `padding="same"`, the padding
    would depend on whether the padded batch has an even number of frames, and the result of an
    utterance on the other utterances of its batch. Padded frames are set to zero before each
    convolution, so that they do not influence valid frames.

    Output length: `ceil(lengths / factor)`.

    Args:
        filters: channels of all convolutions.
        hidden_dim: width D of the output.
        dropout_rate: rate of the dropout after the dense layer.
        factor: 4 or 8.
        depthwise: whether the convolutions after the first one are depthwise separable: a 3x3
            depthwise convolution with stride 2 and a pointwise one with ReLU.
        scale_output: whether to multiply the output of the dense layer by `sqrt(hidden_dim)`.

    Source: Gulati et al., Conformer (2020), section 2; layout of TensorFlowASR 0.8; Rekesh et al.,
    Fast Conformer (2023), section 2, for the depthwise separable convolutions.
    """

    def __init__(
        self,
        filters,
        hidden_dim,
        dropout_rate=0.1,
        *,
        factor=4,
        depthwise=False,
        scale_output=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.hidden_dim = hidden_dim
        self.dropout_rate = dropout_rate
        self.factor = factor
        self.depthwise = depthwise
        self.scale_output = scale_output
        if factor not in (4, 8):
            raise ValueError(f"Expected factor 4 or 8. Received: {factor}.")

    def build(self, features_shape):
        """Creates the variables for features `[B, T, F]`."""
        batch, _, bins = features_shape
        self.stages = []
        channels = 1
        for index in range(self.factor.bit_length() - 1):
            stage = self._stage(index)
            stage[0].build((batch, None, bins + 2, channels))
            channels, bins = self.filters, (bins + 1) // 2
            for layer in stage[1:]:
                layer.build((batch, None, bins, channels))
            self.stages.append(stage)
        # Float32 under every dtype policy, because the gradient of its bias would overflow too.
        self.projection = keras.layers.Dense(self.hidden_dim, dtype="float32", name="projection")
        self.projection.build((batch, None, bins * channels))
        self.dropout = keras.layers.Dropout(self.dropout_rate, dtype=self.dtype_policy)
        self.built = True

    def _stage(self, index):
        """Returns the layers that halve the number of frames for the time number `index`."""
        shared = {"padding": "valid", "product_dtype": self.compute_dtype}
        full = {"activation": "relu", **shared}
        if index == 0 or not self.depthwise:
            return [Convolution(self.filters, 3, 2, name=f"convolution_{index}", **full)]
        return [
            DepthwiseConvolution(3, 2, name=f"depthwise_{index}", **shared),
            Convolution(self.filters, 1, name=f"pointwise_{index}", **full),
        ]

    def call(self, features, lengths, training=False):
        """Subsamples features.

        Args:
            features: `[B, T, F]`.
            lengths: `[B]` valid frames.
            training: whether dropout is active.

        Returns:
            `[B, ceil(T / factor), D]` and the `[B]` int32 numbers of valid frames in it.
        """
        x = ops.expand_dims(features, -1)
        lengths = ops.cast(lengths, "int32")
        for stage in self.stages:
            valid = sequence_mask(lengths, ops.shape(x)[1])[:, :, None, None]
            x = ops.where(valid, x, ops.cast(0, x.dtype))
            x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
            for layer in stage:
                x = layer(x)
            lengths = (lengths + 1) // 2
        x = ops.reshape(x, (-1, ops.shape(x)[1], x.shape[2] * x.shape[3]))
        x = self.projection(x)
        if self.scale_output:
            x = x * self.hidden_dim**0.5
        return self.dropout(x, training=training), lengths

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "hidden_dim": self.hidden_dim,
            "dropout_rate": self.dropout_rate,
            "factor": self.factor,
            "depthwise": self.depthwise,
            "scale_output": self.scale_output,
        }
