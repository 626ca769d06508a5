"""Transformer encoder of wav2vec 2.0 with a positional convolution."""

import contextlib
import math

import keras
from keras import ops

from tools.layers.dropout import Dropout
from wav2vec2.feature_encoder import convolve, gelu, layer_norm

_MASKED = -1e9


def projection(units, dtype, name):
    """Returns a dense layer with the initial values of the original implementation."""
    initializer = keras.initializers.RandomNormal(stddev=0.02)
    return keras.layers.Dense(units, kernel_initializer=initializer, dtype=dtype, name=name)


class PositionalConvolution(keras.layers.Layer):
    """Grouped convolution with weight normalization per kernel position, followed by GELU.

    The output has as many frames as the input: the input is padded by half a kernel of zeros on
    each side, and by one frame less at the end if the kernel size is even.

    Each group is a separate convolution between a split and a concatenation; one variable holds the
    kernels of all groups. TensorFlow has no gradient of grouped convolutions on the CPU, and Keras
    uses XLA for them, which compiles again for each length (keras 3.15.1,
    `backend/tensorflow/nn.py`). In an ONNX graph, the operators are fused to one grouped
    convolution.

    Args:
        kernel_size: kernel size in frames.
        groups: number of groups; D must be a multiple of it.

    Source: Baevski et al., wav2vec 2.0 (2020), section 2; Salimans and Kingma, Weight
    normalization (2016), with one gain for each kernel position.
    """

    def __init__(self, kernel_size, groups, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.groups = groups
        self._fixed = None

    def build(self, inputs_shape):
        """Creates the variables for inputs `[B, T, D]`."""
        hidden_dim = inputs_shape[-1]
        group_dim = hidden_dim // self.groups
        stddev = 2.0 / math.sqrt(self.kernel_size * hidden_dim)
        self.direction = self.add_weight(
            name="direction",
            shape=(self.groups, self.kernel_size, group_dim, group_dim),
            initializer=keras.initializers.RandomNormal(stddev=stddev),
            autocast=False,
        )
        # Initialize with the norm of the direction, so that initially the kernel is the direction.
        self.gain = self.add_weight(
            name="gain",
            shape=(self.kernel_size,),
            initializer=keras.initializers.Constant(stddev * math.sqrt(hidden_dim * group_dim)),
            autocast=False,
        )
        self.bias = self.add_weight(name="bias", shape=(hidden_dim,), initializer="zeros")
        self.built = True

    def kernels(self):
        """Returns the kernels of all groups, `[groups, kernel_size, D / groups, D / groups]`."""
        norm = ops.sqrt(ops.sum(ops.square(self.direction), axis=(0, 2, 3)))
        return self.direction * (self.gain / norm)[:, None, None]

    @contextlib.contextmanager
    def fixed(self, kernels):
        """Returns a context in which the layer uses given kernels instead of computing them.

        Args:
            kernels: the result of `kernels`.
        """
        self._fixed = self._of_groups(kernels)
        try:
            yield
        finally:
            self._fixed = None

    def call(self, inputs):
        """Computes the positional features; maps `[B, T, D]` to `[B, T, D]`."""
        kernels = self._fixed or self._of_groups(self.kernels())
        before = self.kernel_size // 2
        after = self.kernel_size - 1 - before
        x = ops.pad(inputs[:, None], [[0, 0], [0, 0], [before, after], [0, 0]])
        groups = ops.split(x, self.groups, axis=-1)
        x = [convolve(*group) for group in zip(groups, kernels, strict=True)]
        return ops.squeeze(gelu(ops.concatenate(x, axis=-1) + self.bias), 1)

    def _of_groups(self, kernels):
        return tuple(ops.unstack(ops.cast(kernels, self.compute_dtype), self.groups))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "groups": self.groups,
        }


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention, with the softmax in float32 and over the valid keys.

    The output has as many frames as the input.

    Args:
        num_heads: number of heads H; D must be a multiple of H.
        dropout_rate: rate of the dropout on the attention weights.

    Source: Vaswani et al., Attention is all you need (2017), section 3.2.
    """

    def __init__(self, num_heads, dropout_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate

    def build(self, inputs_shape):
        """Creates the variables for inputs `[B, T, D]`."""
        policy, hidden_dim = self.dtype_policy, inputs_shape[-1]
        self.query, self.key, self.value, self.output_projection = (
            projection(hidden_dim, policy, name)
            for name in ("query", "key", "value", "output_projection")
        )
        for child in (self.query, self.key, self.value, self.output_projection):
            child.build(inputs_shape)
        self.dropout = Dropout(self.dropout_rate, dtype=policy)
        self.built = True

    def call(self, inputs, frame_mask=None, training=False):
        """Computes self-attention.

        Args:
            inputs: `[B, T, D]`.
            frame_mask: `[B, T]` bool, True at valid frames; None: all frames are valid.
            training: whether dropout is active.

        Returns:
            `[B, T, D]`.
        """
        _, frames, hidden_dim = ops.shape(inputs)
        head_size = hidden_dim // self.num_heads
        query, key, value = (
            ops.reshape(x, (-1, frames, self.num_heads, head_size))
            for x in (self.query(inputs) * head_size**-0.5, self.key(inputs), self.value(inputs))
        )
        query, key, value = (
            ops.transpose(x, axes)
            for x, axes in ((query, (0, 2, 1, 3)), (key, (0, 2, 3, 1)), (value, (0, 2, 1, 3)))
        )
        scores = ops.cast(ops.matmul(query, key), "float32")
        if frame_mask is not None:
            scores = scores + ops.where(frame_mask[:, None, None, :], 0.0, _MASKED)
        # Keras warns if softmax is over a single key, as for a sound with one frame.
        single = scores.shape[-1] == 1
        weights = ops.ones_like(scores) if single else ops.softmax(scores, axis=-1)
        weights = self.dropout(ops.cast(weights, self.compute_dtype), training=training)
        context = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.output_projection(ops.reshape(context, (-1, frames, hidden_dim)))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "dropout_rate": self.dropout_rate,
        }


class EncoderLayer(keras.layers.Layer):
    """Transformer layer: self-attention and feed-forward network with residuals and layer norms.

    The output has as many frames as the input. Padded frames of the output are finite and do not
    influence valid frames.

    Args:
        num_heads: number of heads H; D must be a multiple of H.
        feedforward_dim: inner width of the feed-forward network.
        pre_norm: True: layer norm before attention and feed-forward network. False: layer norm
            after each residual sum.
        epsilon: epsilon of the layer norms.
        dropout_rate: rate of the dropout after attention and after the feed-forward network.
        attention_dropout_rate: rate of the dropout on the attention weights.
        activation_dropout_rate: rate of the dropout after GELU.

    Source: Baevski et al., wav2vec 2.0 (2020), section 2; Vaswani et al., Attention is all you need
    (2017); Xiong et al., On layer normalization (2020) for `pre_norm`.
    """

    def __init__(
        self,
        num_heads,
        feedforward_dim,
        pre_norm=False,
        epsilon=1e-5,
        *,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        activation_dropout_rate=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.feedforward_dim = feedforward_dim
        self.pre_norm = pre_norm
        self.epsilon = epsilon
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.activation_dropout_rate = activation_dropout_rate

    def build(self, inputs_shape):
        """Creates the variables for inputs `[B, T, D]`."""
        policy = self.dtype_policy
        self.attention = SelfAttention(
            self.num_heads, self.attention_dropout_rate, dtype=policy, name="attention"
        )
        self.attention_norm, self.feedforward_norm = (
            layer_norm(self.epsilon, policy, name)
            for name in ("attention_norm", "feedforward_norm")
        )
        self.expansion = projection(self.feedforward_dim, policy, "expansion")
        self.contraction = projection(inputs_shape[-1], policy, "contraction")
        for child in (self.attention, self.attention_norm, self.feedforward_norm, self.expansion):
            child.build(inputs_shape)
        self.contraction.build((*inputs_shape[:-1], self.feedforward_dim))
        self.activation_dropout = Dropout(self.activation_dropout_rate, dtype=policy)
        self.dropouts = [Dropout(self.dropout_rate, dtype=policy) for _ in range(2)]
        self.built = True

    def call(self, inputs, frame_mask=None, training=False):
        """Applies the layer; maps `[B, T, D]` to `[B, T, D]`. See `SelfAttention.call`."""
        if self.pre_norm:
            x = inputs + self._attend(self.attention_norm(inputs), frame_mask, training)
            return x + self._feed_forward(self.feedforward_norm(x), training)
        x = self.attention_norm(inputs + self._attend(inputs, frame_mask, training))
        return self.feedforward_norm(x + self._feed_forward(x, training))

    def _attend(self, x, frame_mask, training):
        x = self.attention(x, frame_mask, training=training)
        return self.dropouts[0](x, training=training)

    def _feed_forward(self, x, training):
        x = self.activation_dropout(gelu(self.expansion(x)), training=training)
        return self.dropouts[1](self.contraction(x), training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = (
            "num_heads feedforward_dim pre_norm epsilon dropout_rate attention_dropout_rate "
            "activation_dropout_rate"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class Encoder(keras.layers.Layer):
    """Positional convolution followed by transformer layers.

    The output has as many frames as the input. If a mask is given, padded frames are set to zero
    before the convolution and are excluded from attention, so that they do not influence valid
    frames. The output at padded frames is finite, but has no meaning.

    Args:
        num_layers: number of transformer layers.
        num_heads: number of heads H; D must be a multiple of H.
        feedforward_dim: inner width of the feed-forward networks.
        position_kernel_size: kernel size of the positional convolution in frames.
        position_groups: number of groups of the positional convolution.
        pre_norm: see `EncoderLayer`. True: a layer norm follows the last layer. False: a layer
            norm precedes the first layer.
        epsilon: epsilon of the layer norms.
        dropout_rate: rate of the dropout before the layers, after attention and after the
            feed-forward network.
        attention_dropout_rate: rate of the dropout on the attention weights.
        activation_dropout_rate: rate of the dropout after GELU.
        layer_drop_rate: probability that a layer is skipped for a training batch.

    Source: Baevski et al., wav2vec 2.0 (2020), section 2; Fan et al., Reducing transformer depth
    on demand (2020) for LayerDrop.
    """

    def __init__(
        self,
        num_layers,
        num_heads,
        feedforward_dim,
        position_kernel_size=128,
        *,
        position_groups=16,
        pre_norm=False,
        epsilon=1e-5,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        activation_dropout_rate=0.0,
        layer_drop_rate=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.feedforward_dim = feedforward_dim
        self.position_kernel_size = position_kernel_size
        self.position_groups = position_groups
        self.pre_norm = pre_norm
        self.epsilon = epsilon
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.activation_dropout_rate = activation_dropout_rate
        self.layer_drop_rate = layer_drop_rate
        self.seed_generator = keras.random.SeedGenerator() if layer_drop_rate > 0 else None

    def build(self, inputs_shape):
        """Creates the variables for inputs `[B, T, D]`."""
        policy = self.dtype_policy
        self.position = PositionalConvolution(
            self.position_kernel_size, self.position_groups, dtype=policy, name="position"
        )
        self.norm = layer_norm(self.epsilon, policy, "norm")
        self.dropout = Dropout(self.dropout_rate, dtype=policy)
        self.blocks = [
            EncoderLayer(
                self.num_heads,
                self.feedforward_dim,
                self.pre_norm,
                self.epsilon,
                dropout_rate=self.dropout_rate,
                attention_dropout_rate=self.attention_dropout_rate,
                activation_dropout_rate=self.activation_dropout_rate,
                dtype=policy,
                name=f"block_{index}",
            )
            for index in range(self.num_layers)
        ]
        for child in (self.position, self.norm, *self.blocks):
            child.build(inputs_shape)
        self.built = True

    def call(self, inputs, frame_mask=None, training=False):
        """Encodes features.

        Args:
            inputs: `[B, T, D]`.
            frame_mask: `[B, T]` bool, True at valid frames; None: all frames are valid.
            training: whether dropout and LayerDrop are active.

        Returns:
            `[B, T, D]`.
        """
        x = inputs
        if frame_mask is not None:
            x = ops.where(frame_mask[:, :, None], x, ops.cast(0, x.dtype))
        x = x + self.position(x)
        x = self.dropout(x if self.pre_norm else self.norm(x), training=training)
        for block in self.blocks:
            x = self._pass(block, x, frame_mask, training)
        return self.norm(x) if self.pre_norm else x

    def _pass(self, block, x, frame_mask, training):
        if not training or self.layer_drop_rate == 0:
            return block(x, frame_mask, training=training)
        kept = keras.random.uniform((), seed=self.seed_generator) >= self.layer_drop_rate
        return ops.cond(kept, lambda: block(x, frame_mask, training=training), lambda: x)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = (
            "num_layers num_heads feedforward_dim position_kernel_size position_groups pre_norm "
            "epsilon dropout_rate attention_dropout_rate activation_dropout_rate layer_drop_rate"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
