"""The block that couples the two branches of the vision Conformer, and its two crossings."""

import keras
from keras import ops

from vision.attention import TransformerBlock
from vision.convolution import (
    BOTTLENECK,
    EPSILON,
    BatchNormalization,
    ConvolutionBlock,
    kernel_initializer,
)


def bias_initializer(fan_in):
    """Biases of convolutions in the originals: uniform within `1 / sqrt(fan_in)`."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def flatten(x):
    """Maps `[B, H, W, C]` to `[B, H * W, C]`."""
    _, height, width, channels = ops.shape(x)
    return ops.reshape(x, (-1, height * width, channels))


class CouplingDown(keras.layers.Layer):
    """Feature map to tokens: average pool, 1x1 convolution, layer norm, GELU, class token in front.

    Pooling and a 1x1 convolution commute; in this order the convolution has less to do.

    Args:
        hidden_dim: D.
        pool_size: side of the patch of the map that makes a token.
        approximate_gelu: whether GELU is its tanh form.

    Source: Peng et al., Conformer (2021), section 3.3.
    """

    def __init__(self, hidden_dim, pool_size, approximate_gelu=False, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.pool_size = pool_size
        self.approximate_gelu = approximate_gelu

    def build(self, inputs_shape):
        """Builds for feature maps of `[B, H, W, C]`."""
        policy, channels = self.dtype_policy, inputs_shape[-1]
        self.pooling = (
            keras.layers.AveragePooling2D(self.pool_size, dtype=policy)
            if self.pool_size > 1
            else None
        )
        self.projection = keras.layers.Dense(
            self.hidden_dim,
            kernel_initializer=kernel_initializer(),
            bias_initializer=bias_initializer(channels),
            dtype=policy,
            name="projection",
        )
        self.projection.build((None, None, channels))
        self.normalization = keras.layers.LayerNormalization(
            epsilon=EPSILON, dtype=policy, name="normalization"
        )
        self.normalization.build((None, None, self.hidden_dim))
        self.built = True

    def call(self, inputs, tokens):
        """Maps `[B, H, W, C]`, with the class token of `[B, 1 + P, D]`, to `[B, 1 + P, D]`."""
        x = inputs if self.pooling is None else self.pooling(inputs)
        x = self.normalization(self.projection(flatten(x)))
        x = ops.gelu(x, approximate=self.approximate_gelu)
        return ops.concatenate([tokens[:, :1], x], axis=1)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "hidden_dim pool_size approximate_gelu".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class CouplingUp(keras.layers.Layer):
    """Tokens to feature map: 1x1 convolution, batch norm, ReLU, nearest upsampling.

    Args:
        filters: channels of the map.
        up_size: side of the patch of the map that repeats a token.

    Source: Peng et al., Conformer (2021), section 3.3.
    """

    def __init__(self, filters, up_size, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.up_size = up_size

    def build(self, tokens_shape):
        """Builds for tokens of `[B, 1 + P, D]`."""
        policy, hidden_dim = self.dtype_policy, tokens_shape[-1]
        self.projection = keras.layers.Dense(
            self.filters,
            kernel_initializer=kernel_initializer(),
            bias_initializer=bias_initializer(hidden_dim),
            dtype=policy,
            name="projection",
        )
        self.projection.build(tokens_shape)
        self.normalization = BatchNormalization(dtype=policy, name="normalization")
        self.normalization.build((None, None, self.filters))
        self.built = True

    def call(self, tokens, height, width, training=False):
        """Maps `[B, 1 + P, D]` to `[B, height, width, filters]`; the class token is left out."""
        x = self.normalization(self.projection(tokens[:, 1:]), training=training)
        size, filters = self.up_size, self.filters
        rows, columns = height // size, width // size
        if size == 1:
            return ops.reshape(ops.relu(x), (-1, rows, columns, filters))
        # One broadcast, which every backend can differentiate, trace and compile.
        x = ops.reshape(ops.relu(x), (-1, rows, 1, columns, 1, filters))
        x = ops.broadcast_to(x, (ops.shape(x)[0], rows, size, columns, size, filters))
        return ops.reshape(x, (-1, height, width, filters))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "filters": self.filters, "up_size": self.up_size}


class CoupledBlock(keras.layers.Layer):
    """A convolution block, a transformer block that reads it, a convolution block that reads both.

    Output size of the map: `ceil(size / strides)`, halved once more where `is_last`.

    Args:
        filters: channels of the map.
        strides: of the first convolution block, whose shortcut is a convolution where it is 2.
        pool_size: side of the patch of the map behind a token.
        transformer_arguments: of the `TransformerBlock`, by name.
        is_last: whether the second convolution block halves the map.
        fusion_drop_path_rate: of the second convolution block.
        zero_init_last_batch_norm: see `ConvolutionBlock`.

    Source: Peng et al., Conformer (2021), section 3.3 and figure 2.
    """

    def __init__(
        self,
        filters,
        strides,
        pool_size,
        transformer_arguments,
        *,
        is_last=False,
        fusion_drop_path_rate=0.0,
        zero_init_last_batch_norm=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides
        self.pool_size = pool_size
        self.transformer_arguments = transformer_arguments
        self.is_last = is_last
        self.fusion_drop_path_rate = fusion_drop_path_rate
        self.zero_init_last_batch_norm = zero_init_last_batch_norm

    def build(self, inputs_shape, tokens_shape):
        """Builds for feature maps of `[B, H, W, C]` and tokens of `[B, 1 + P, D]`."""
        policy, inner = self.dtype_policy, self.filters // BOTTLENECK
        self.convolution = ConvolutionBlock(
            self.filters,
            self.strides,
            project_residual=self.strides > 1,
            zero_init_last_batch_norm=self.zero_init_last_batch_norm,
            dtype=policy,
            name="convolution",
        )
        self.convolution.build(inputs_shape)
        self.down = CouplingDown(
            tokens_shape[-1],
            self.pool_size,
            self.transformer_arguments.get("approximate_gelu", False),
            dtype=policy,
            name="down",
        )
        self.down.build((None, None, None, inner))
        self.transformer = TransformerBlock(
            **self.transformer_arguments, dtype=policy, name="transformer"
        )
        self.transformer.build(tokens_shape)
        self.up = CouplingUp(inner, self.pool_size, dtype=policy, name="up")
        self.up.build(tokens_shape)
        self.fusion = ConvolutionBlock(
            self.filters,
            strides=2 if self.is_last else 1,
            project_residual=self.is_last,
            drop_path_rate=self.fusion_drop_path_rate,
            zero_init_last_batch_norm=self.zero_init_last_batch_norm,
            dtype=policy,
            name="fusion",
        )
        self.fusion.build((None, None, None, self.filters))
        self.built = True

    def call(self, inputs, tokens, training=False):
        """Transforms.

        Args:
            inputs: `[B, H, W, C]`.
            tokens: `[B, 1 + P, D]`.
            training: whether dropout, drop path and batch moments are active.

        Returns:
            `[B, H', W', filters]` and `[B, 1 + P, D]`.
        """
        x, inner = self.convolution(inputs, training=training)
        tokens = self.transformer(self.down(inner, tokens) + tokens, training=training)
        _, height, width, _ = ops.shape(inner)
        added = self.up(tokens, height=height, width=width, training=training)
        x, _ = self.fusion(x, added, training=training)
        return x, tokens

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "filters strides pool_size is_last fusion_drop_path_rate zero_init_last_batch_norm"
        return {
            **super().get_config(),
            "transformer_arguments": dict(self.transformer_arguments),
            **{name: getattr(self, name) for name in names.split()},
        }
