"""Convolution subsampling: reduces the number of frames by a factor of 4."""

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


class ConvolutionSubsampling(keras.layers.Layer):
    """Two 3x3 convolutions with stride 2 and ReLU, then a dense layer and dropout.

    Each convolution pads one frame and one bin on each side. With `padding="same"`, the padding
    would depend on whether the padded batch has an even number of frames, and the result of an
    utterance on the other utterances of its batch. Padded frames are set to zero before each
    convolution, so that they do not influence valid frames.

    Output length: `ceil(ceil(lengths / 2) / 2)`.

    Args:
        filters: channels of both convolutions.
        hidden_dim: width D of the output.
        dropout_rate: rate of the dropout after the dense layer.

    Source: Gulati et al., Conformer (2020), section 2; layout of TensorFlowASR 0.8.
    """

    def __init__(self, filters, hidden_dim, dropout_rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.hidden_dim = hidden_dim
        self.dropout_rate = dropout_rate

    def build(self, features_shape):
        """Creates the variables for features `[B, T, F]`."""
        batch, _, bins = features_shape
        self.convolutions = []
        channels = 1
        for index in range(2):
            convolution = Convolution(
                self.filters,
                3,
                strides=2,
                padding="valid",
                activation="relu",
                product_dtype=self.compute_dtype,
                name=f"convolution_{index}",
            )
            convolution.build((batch, None, bins + 2, channels))
            self.convolutions.append(convolution)
            channels, bins = self.filters, (bins + 1) // 2
        # Float32 under every dtype policy, because the gradient of its bias would overflow too.
        self.projection = keras.layers.Dense(self.hidden_dim, dtype="float32", name="projection")
        self.projection.build((batch, None, bins * channels))
        self.dropout = keras.layers.Dropout(self.dropout_rate, dtype=self.dtype_policy)
        self.built = True

    def call(self, features, lengths, training=False):
        """Subsamples features.

        Args:
            features: `[B, T, F]`.
            lengths: `[B]` valid frames.
            training: whether dropout is active.

        Returns:
            `[B, ceil(ceil(T/2)/2), D]` and the `[B]` int32 numbers of valid frames in it.
        """
        x = ops.expand_dims(features, -1)
        lengths = ops.cast(lengths, "int32")
        for convolution in self.convolutions:
            valid = sequence_mask(lengths, ops.shape(x)[1])[:, :, None, None]
            x = ops.where(valid, x, ops.cast(0, x.dtype))
            x = convolution(ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]))
            lengths = (lengths + 1) // 2
        x = ops.reshape(x, (-1, ops.shape(x)[1], x.shape[2] * x.shape[3]))
        return self.dropout(self.projection(x), training=training), lengths

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "hidden_dim": self.hidden_dim,
            "dropout_rate": self.dropout_rate,
        }
