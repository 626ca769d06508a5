"""Block with a convolution branch and a transformer branch, and the layers that couple them."""

import keras
from keras import ops

from tools.layers.layer_norm import LayerNormalization
from vision.attention import TransformerBlock
from vision.convolution import (
    BOTTLENECK,
    EPSILON,
    BatchNormalization,
    ConvolutionBlock,
    kernel_initializer,
)


def bias_initializer(fan_in):
    """Returns the initializer of PyTorch's convolution biases: uniform in +- `1 / sqrt(fan_in)`."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def flatten(x):
    """Reshapes `[B, H, W, C]` to `[B, H * W, C]`."""
    _, height, width, channels = ops.shape(x)
    return ops.reshape(x, (-1, height * width, channels))


class CouplingDown(keras.layers.Layer):
    """Converts a feature map to tokens: average pooling, 1x1 convolution, layer norm, GELU.

    The class token of the transformer branch is put in front. The paper applies the convolution
    before the pooling. Both orders give the same result, and pooling first is faster.

    Args:
        hidden_dim: width D of a token.
        pool_size: side of the square of the map that becomes one token.
        approximate_gelu: whether to use the tanh approximation of GELU.

    Source: Peng et al., Conformer (2021), section 3.3.
    """

    def __init__(self, hidden_dim, pool_size, approximate_gelu=False, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.pool_size = pool_size
        self.approximate_gelu = approximate_gelu

    def build(self, inputs_shape):
        """Creates the variables for feature maps `[B, H, W, C]`."""
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
        self.normalization = LayerNormalization(epsilon=EPSILON, dtype=policy, name="normalization")
        self.normalization.build((None, None, self.hidden_dim))
        self.built = True

    def call(self, inputs, tokens):
        """Converts a feature map to tokens.

        Args:
            inputs: `[B, H, W, C]` feature map.
            tokens: `[B, 1 + P, D]` tokens of the transformer branch; the first is the class token.

        Returns:
            `[B, 1 + P, D]`: the class token and the tokens of the feature map.
        """
        x = inputs if self.pooling is None else self.pooling(inputs)
        x = self.normalization(self.projection(flatten(x)))
        x = ops.gelu(x, approximate=self.approximate_gelu)
        return ops.concatenate([tokens[:, :1], x], axis=1)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "hidden_dim pool_size approximate_gelu".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class CouplingUp(keras.layers.Layer):
    """Converts tokens to a feature map: 1x1 convolution, batch norm, ReLU, nearest upsampling.

    Args:
        filters: channels of the map.
        up_size: side of the square of the map that is filled with one token.

    Source: Peng et al., Conformer (2021), section 3.3.
    """

    def __init__(self, filters, up_size, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.up_size = up_size

    def build(self, tokens_shape):
        """Creates the variables for tokens `[B, 1 + P, D]`."""
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
        """Maps `[B, 1 + P, D]` to `[B, height, width, filters]`, without the class token."""
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
    """Two convolution blocks with a transformer block between them.

    The bottleneck of the first convolution block is added to the input of the transformer block.
    The output of the transformer block is added to the bottleneck of the second convolution block.

    Output size of the map: `ceil(size / strides)`, halved again if `is_last`.

    Args:
        filters: channels of the map.
        strides: stride of the first convolution block. With stride 2 its shortcut is a convolution.
        pool_size: side of the square of the map that corresponds to one token.
        transformer_arguments: arguments of the `TransformerBlock` by name.
        is_last: whether the second convolution block has stride 2.
        fusion_drop_path_rate: rate of stochastic depth in the second convolution block.
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
        """Creates the variables for feature maps `[B, H, W, C]` and tokens `[B, 1 + P, D]`."""
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
        """Applies the block.

        Args:
            inputs: `[B, H, W, C]` feature map.
            tokens: `[B, 1 + P, D]` tokens.
            training: whether dropout and stochastic depth are active and batch norm uses the
                moments of the batch.

        Returns:
            `[B, H', W', filters]` feature map and `[B, 1 + P, D]` tokens.
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
