"""Conformer encoder: feed-forward module, Conformer block, and the complete encoder."""

import keras
from keras import ops

from conformer.attention import RelativeMultiHeadAttention, relative_positions
from conformer.convolution import BATCH_NORM_EPSILON, ConvolutionModule
from conformer.subsampling import ConvolutionSubsampling
from tools.layers.activations import silu
from tools.layers.dropout import Dropout
from tools.layers.layer_norm import LayerNormalization
from tools.layers.masking import sequence_mask
from tools.layers.rows import Rows

LAYER_NORM_EPSILON = 1e-5
_BLOCK_OPTIONS = (
    "attention_bias feedforward_bias convolution_bias convolution_norm convolution_norm_epsilon"
).split()


class FeedForward(keras.layers.Layer):
    """Dense layer, swish, dropout, dense layer, dropout, applied to each frame.

    Args:
        feedforward_dim: inner width.
        dropout_rate: rate of both dropouts.
        use_bias: whether the dense layers have a bias.

    Source: Gulati et al., Conformer (2020), section 2.3.
    """

    def __init__(self, feedforward_dim, dropout_rate=0.1, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.feedforward_dim = feedforward_dim
        self.dropout_rate = dropout_rate
        self.use_bias = use_bias

    def build(self, inputs_shape):
        """Builds for inputs of `[B, T, D]`."""
        shared = {"use_bias": self.use_bias, "dtype": self.dtype_policy}
        self.expansion = keras.layers.Dense(self.feedforward_dim, name="expansion", **shared)
        self.expansion.build(inputs_shape)
        self.projection = keras.layers.Dense(inputs_shape[-1], name="projection", **shared)
        self.projection.build((*inputs_shape[:-1], self.feedforward_dim))
        self.dropouts = [Dropout(self.dropout_rate, dtype=self.dtype_policy) for _ in range(2)]
        self.built = True

    def call(self, inputs, training=False):
        """Maps `[B, T, D]` to `[B, T, D]`."""
        x = silu(self.expansion(inputs), training=training)
        x = self.dropouts[0](x, training=training)
        return self.dropouts[1](self.projection(x), training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "feedforward_dim": self.feedforward_dim,
            "dropout_rate": self.dropout_rate,
            "use_bias": self.use_bias,
        }


class ConformerBlock(keras.layers.Layer):
    """Feed-forward module, self-attention, convolution, feed-forward module, layer norm.

    Each module has a layer norm at its input and a residual connection around it. The residual
    connections of the feed-forward modules have weight one half. The output has as many frames as
    the input. Padded frames of the output are finite and do not influence valid frames.

    Args:
        num_heads: number of heads H; D must be a multiple of H.
        feedforward_dim: inner width of both feed-forward modules.
        kernel_size: kernel size of the depthwise convolution in frames.
        dropout_rate: rate of the dropout in and after each module.
        attention_bias: see `RelativeMultiHeadAttention`.
        feedforward_bias: whether the dense layers of the feed-forward modules have a bias.
        convolution_bias: whether the convolutions have a bias.
        convolution_norm: norm of the convolution module, `"batch"` or `"layer"`.
        convolution_norm_epsilon: added to the variance by this norm.

    Source: Gulati et al., Conformer (2020), section 2.4.
    """

    def __init__(
        self,
        num_heads,
        feedforward_dim,
        kernel_size,
        dropout_rate=0.1,
        *,
        attention_bias="output",
        feedforward_bias=True,
        convolution_bias=True,
        convolution_norm="batch",
        convolution_norm_epsilon=BATCH_NORM_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.feedforward_dim = feedforward_dim
        self.kernel_size = kernel_size
        self.dropout_rate = dropout_rate
        self.attention_bias = attention_bias
        self.feedforward_bias = feedforward_bias
        self.convolution_bias = convolution_bias
        self.convolution_norm = convolution_norm
        self.convolution_norm_epsilon = convolution_norm_epsilon

    def build(self, inputs_shape):
        """Builds for inputs of `[B, T, D]`."""
        policy, width = self.dtype_policy, inputs_shape[-1]
        self.feedforwards = [
            FeedForward(
                self.feedforward_dim,
                self.dropout_rate,
                self.feedforward_bias,
                dtype=policy,
                name=f"feedforward_{i}",
            )
            for i in range(2)
        ]
        self.attention = RelativeMultiHeadAttention(
            self.num_heads,
            width // self.num_heads,
            self.attention_bias,
            dtype=policy,
            name="attention",
        )
        self.attention_dropout = Dropout(self.dropout_rate, dtype=policy)
        self.convolution = ConvolutionModule(
            self.kernel_size,
            self.dropout_rate,
            use_bias=self.convolution_bias,
            norm=self.convolution_norm,
            epsilon=self.convolution_norm_epsilon,
            dtype=policy,
            name="convolution",
        )
        self.norms = [
            LayerNormalization(epsilon=LAYER_NORM_EPSILON, dtype=policy, name=f"norm_{name}")
            for name in ("feedforward_0", "attention", "convolution", "feedforward_1", "output")
        ]
        for child in (*self.feedforwards, self.attention, self.convolution, *self.norms):
            child.build(inputs_shape)
        self.built = True

    def call(self, inputs, positions, frame_mask, training=False):
        """Applies the block.

        Args:
            inputs: `[B, T, D]`.
            positions: `[2T, D]`, the result of `attention.relative_positions`.
            frame_mask: `[B, T]` bool, True at valid frames.
            training: whether dropout is active and batch norm uses the moments of the batch.

        Returns:
            `[B, T, D]`.
        """
        layout = Rows(inputs, training)
        inputs = layout.rows(inputs)
        before, attend, convolve, after, output = self.norms
        x = inputs + 0.5 * self.feedforwards[0](before(inputs), training=training)
        attended = self.attention(layout.batch(attend(x)), positions, frame_mask, training=training)
        attended = layout.rows(attended)
        x = x + self.attention_dropout(attended, training=training)
        convolved = self.convolution(layout.batch(convolve(x)), frame_mask, training=training)
        x = x + layout.rows(convolved)
        x = x + 0.5 * self.feedforwards[1](after(x), training=training)
        return layout.batch(output(x))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "feedforward_dim": self.feedforward_dim,
            "kernel_size": self.kernel_size,
            "dropout_rate": self.dropout_rate,
            **{name: getattr(self, name) for name in _BLOCK_OPTIONS},
        }


class ConformerEncoder(keras.layers.Layer):
    """Convolution subsampling followed by Conformer blocks.

    Output length: `ceil(lengths / subsampling_factor)`. Frames after this length are zero.

    Args:
        num_layers: number of Conformer blocks.
        hidden_dim: width D, even and a multiple of H.
        num_heads: number of heads H.
        feedforward_dim: inner width of the feed-forward modules.
        kernel_size: kernel size of the depthwise convolutions in frames.
        subsampling_filters: channels of the subsampling convolutions.
        dropout_rate: rate of all dropouts.
        subsampling_factor: 4 or 8.
        depthwise_subsampling: see `ConvolutionSubsampling`.
        scale_input: whether to multiply the input of the first block by `sqrt(hidden_dim)`.
        attention_bias: see `ConformerBlock`.
        feedforward_bias: see `ConformerBlock`.
        convolution_bias: see `ConformerBlock`.
        convolution_norm: see `ConformerBlock`.
        convolution_norm_epsilon: see `ConformerBlock`.

    Source: Gulati et al., Conformer (2020), figure 1; Rekesh et al., Fast Conformer (2023).
    """

    def __init__(
        self,
        num_layers,
        hidden_dim,
        num_heads,
        feedforward_dim,
        *,
        kernel_size,
        subsampling_filters,
        dropout_rate=0.1,
        subsampling_factor=4,
        depthwise_subsampling=False,
        scale_input=False,
        attention_bias="output",
        feedforward_bias=True,
        convolution_bias=True,
        convolution_norm="batch",
        convolution_norm_epsilon=BATCH_NORM_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.feedforward_dim = feedforward_dim
        self.kernel_size = kernel_size
        self.subsampling_filters = subsampling_filters
        self.dropout_rate = dropout_rate
        self.subsampling_factor = subsampling_factor
        self.depthwise_subsampling = depthwise_subsampling
        self.scale_input = scale_input
        self.attention_bias = attention_bias
        self.feedforward_bias = feedforward_bias
        self.convolution_bias = convolution_bias
        self.convolution_norm = convolution_norm
        self.convolution_norm_epsilon = convolution_norm_epsilon

    def build(self, features_shape):
        """Creates the variables for features `[B, T, F]`."""
        self.subsampling = ConvolutionSubsampling(
            self.subsampling_filters,
            self.hidden_dim,
            self.dropout_rate,
            factor=self.subsampling_factor,
            depthwise=self.depthwise_subsampling,
            scale_output=self.scale_input,
            dtype=self.dtype_policy,
            name="subsampling",
        )
        self.subsampling.build(features_shape)
        self.blocks = []
        for index in range(self.num_layers):
            block = ConformerBlock(
                self.num_heads,
                self.feedforward_dim,
                self.kernel_size,
                self.dropout_rate,
                **{name: getattr(self, name) for name in _BLOCK_OPTIONS},
                dtype=self.dtype_policy,
                name=f"block_{index}",
            )
            block.build((features_shape[0], None, self.hidden_dim))
            self.blocks.append(block)
        self.built = True

    def call(self, features, lengths, training=False):
        """Encodes features.

        Args:
            features: `[B, T, F]`.
            lengths: `[B]` valid frames.
            training: whether dropout is active and batch norm uses the moments of the batch.

        Returns:
            `[B, ceil(T / subsampling_factor), D]` encoded frames and the `[B]` int32 numbers of
            valid ones.
        """
        x, lengths = self.subsampling(features, lengths, training=training)
        frames = ops.shape(x)[1]
        frame_mask = sequence_mask(lengths, frames)
        positions = relative_positions(frames, self.hidden_dim, self.compute_dtype)
        for block in self.blocks:
            x = block(x, positions, frame_mask, training=training)
        return ops.where(frame_mask[:, :, None], x, ops.cast(0, x.dtype)), lengths

    def get_config(self):
        """Returns the constructor's arguments."""
        names = (
            "num_layers hidden_dim num_heads feedforward_dim kernel_size subsampling_filters "
            "dropout_rate subsampling_factor depthwise_subsampling scale_input"
        ).split()
        names += _BLOCK_OPTIONS
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
