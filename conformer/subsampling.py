"""Convolution subsampling: reduces the number of frames by a factor of 4 or 8."""

import keras
from keras import ops

from tools.layers.dropout import Dropout
from tools.layers.masking import sequence_mask


def _with_kernel_gradient(outputs, inputs, kernel):
    """Returns the outputs of a convolution, with a gradient by its kernel.

    Args:
        outputs: `[B, T', F', N]` outputs that have no gradient by the kernel yet.
        inputs: `[B, T, F, C]` inputs of the convolution, without padding.
        kernel: `[3, 3, C, N]`, with stride 2.
    """

    @ops.custom_gradient
    def linked(outputs, kernel):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return upstream, _kernel_gradient(inputs, upstream)

        return ops.copy(outputs), gradient

    return linked(outputs, kernel)


def _kernel_gradient(inputs, upstream):
    """Returns the gradient `[3, 3, C, N]` of the kernel of `_with_kernel_gradient`.

    For each row of the kernel, one product is that of the first two columns, whose inputs are
    neighbors in memory, and one that of the last column.
    """
    batch, frames, bins, outputs = ops.shape(upstream)
    channels = inputs.shape[-1]
    upstream = ops.reshape(upstream, (-1, outputs))
    products = []
    for first, row in ((0, 0), (0, 1), (1, 1)):
        x = inputs[:, first : first + 2 * frames]
        x = ops.reshape(x, (batch, frames, 2, inputs.shape[2], channels))[:, :, row]
        pairs = ops.reshape(x[:, :, : 2 * bins], (-1, 2 * channels))
        last = ops.reshape(x[:, :, 1 : 2 * bins + 1], (batch, frames, bins, 2, channels))
        last = ops.reshape(last[:, :, :, 1], (-1, channels))
        products += [ops.matmul(ops.transpose(x), upstream) for x in (pairs, last)]
    return ops.reshape(ops.concatenate(products, axis=0), (3, 3, channels, outputs))


class Convolution(keras.layers.Conv2D):
    """A convolution whose bias and activation are float32 under every dtype policy.

    The gradient of the bias is a sum over all frames and bins of a batch, and would overflow in
    float16 before any other gradient does: where SpecAugment sets features to zero, every output
    with a positive bias contributes to it.

    Args:
        *args: arguments of `keras.layers.Conv2D`.
        product_dtype: dtype of the product with the kernel, and of the output.
        **kwargs: arguments of `keras.layers.Conv2D`, without `dtype`.

    Attributes:
        kernel_gradient_by_products: whether to compute the gradient of a 3x3 kernel with stride 2
            and without padding by matrix products, which is faster on CPUs.
    """

    def __init__(self, *args, product_dtype, **kwargs):
        super().__init__(*args, dtype="float32", **kwargs)
        self.product_dtype = product_dtype
        self.kernel_gradient_by_products = False

    def call(self, inputs):
        """Computes the convolution of `[B, T, F, C]`."""
        inputs, kernel = (ops.cast(x, self.product_dtype) for x in (inputs, self.kernel))
        by_products = self.kernel_gradient_by_products and inputs.shape[-1] > 1
        if by_products and (self.kernel_size, self.strides) == ((3, 3), (2, 2)):
            x = self.convolution_op(inputs, ops.stop_gradient(kernel))
            x = _with_kernel_gradient(x, inputs, kernel)
        else:
            x = self.convolution_op(inputs, kernel)
        x = ops.cast(x, "float32")
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
        self.dropout = Dropout(self.dropout_rate, dtype=self.dtype_policy)
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
            if stage is self.stages[0]:  # features may be NaN in padding
                x = ops.where(valid, x, ops.cast(0, x.dtype))
            else:  # a product is faster
                x = x * ops.cast(valid, x.dtype)
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
