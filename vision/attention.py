"""Self-attention and transformer block of the vision Conformer."""

import keras
from keras import ops

from tools.layers.dropout import Dropout
from tools.layers.layer_norm import LayerNormalization
from vision.convolution import EPSILON, drop_path


def projection(units, dtype, name):
    """Returns a dense layer with the initial values of the PyTorch implementation.

    PyTorch draws from a normal distribution with standard deviation 0.02, truncated at -2 and 2.
    These limits are 100 standard deviations away, so that truncation has no effect.
    """
    initializer = keras.initializers.RandomNormal(stddev=0.02)
    return keras.layers.Dense(units, kernel_initializer=initializer, dtype=dtype, name=name)


class MultiHeadAttention(keras.layers.Layer):
    """Self-attention over all tokens, with the softmax in float32.

    Args:
        num_heads: number of heads H; D must be a multiple of H.
        dropout_rate: rate of the dropout after the output projection.
        attention_dropout_rate: rate of the dropout on the attention weights.

    Source: Vaswani et al., Attention is all you need (2017), section 3.2.
    """

    def __init__(self, num_heads, dropout_rate=0.0, attention_dropout_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate

    def build(self, tokens_shape):
        """Creates the variables for tokens `[B, P, D]`."""
        policy, hidden_dim = self.dtype_policy, tokens_shape[-1]
        self.query_key_value = projection(3 * hidden_dim, policy, "query_key_value")
        self.output_projection = projection(hidden_dim, policy, "output_projection")
        for child in (self.query_key_value, self.output_projection):
            child.build(tokens_shape)
        self.dropout = Dropout(self.dropout_rate, dtype=policy)
        self.attention_dropout = Dropout(self.attention_dropout_rate, dtype=policy)
        self.built = True

    def call(self, tokens, training=False):
        """Computes self-attention; maps `[B, P, D]` to `[B, P, D]`."""
        _, length, hidden_dim = ops.shape(tokens)
        head_size = hidden_dim // self.num_heads
        query, key, value = (
            ops.reshape(x, (-1, length, self.num_heads, head_size))
            for x in ops.split(self.query_key_value(tokens), 3, axis=-1)
        )
        query = ops.transpose(query * head_size**-0.5, (0, 2, 1, 3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 3, 1)))
        weights = ops.softmax(ops.cast(scores, "float32"), axis=-1)
        weights = self.attention_dropout(ops.cast(weights, self.compute_dtype), training=training)
        context = ops.matmul(weights, ops.transpose(value, (0, 2, 1, 3)))
        context = ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (-1, length, hidden_dim))
        return self.dropout(self.output_projection(context), training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "num_heads dropout_rate attention_dropout_rate".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class TransformerBlock(keras.layers.Layer):
    """Pre-norm transformer block: self-attention, then a feed-forward network.

    Args:
        num_heads: number of heads H; D must be a multiple of H.
        feedforward_dim: inner width of the feed-forward network.
        dropout_rate: rate of the dropouts in the feed-forward network and after the attention.
        attention_dropout_rate: rate of the dropout on the attention weights.
        drop_path_rate: rate of stochastic depth. Each of the two residual branches draws
            separately.
        approximate_gelu: whether to use the tanh approximation of GELU.

    Source: Peng et al., Conformer (2021), section 3.2; Dosovitskiy et al., ViT (2021).
    """

    def __init__(
        self,
        num_heads,
        feedforward_dim,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        *,
        drop_path_rate=0.0,
        approximate_gelu=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.feedforward_dim = feedforward_dim
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.drop_path_rate = drop_path_rate
        self.approximate_gelu = approximate_gelu

    def build(self, tokens_shape):
        """Creates the variables for tokens `[B, P, D]`."""
        policy, hidden_dim = self.dtype_policy, tokens_shape[-1]
        self.attention_norm, self.feedforward_norm = (
            LayerNormalization(epsilon=EPSILON, dtype=policy, name=name)
            for name in ("attention_norm", "feedforward_norm")
        )
        self.attention = MultiHeadAttention(
            self.num_heads,
            self.dropout_rate,
            self.attention_dropout_rate,
            dtype=policy,
            name="attention",
        )
        self.expansion = projection(self.feedforward_dim, policy, "expansion")
        self.contraction = projection(hidden_dim, policy, "contraction")
        for child in (self.attention_norm, self.attention, self.feedforward_norm, self.expansion):
            child.build(tokens_shape)
        self.contraction.build((*tokens_shape[:-1], self.feedforward_dim))
        self.dropouts = [Dropout(self.dropout_rate, dtype=policy) for _ in range(2)]
        self.drop_path = drop_path(self.drop_path_rate, 3, policy)
        self.built = True

    def call(self, tokens, training=False):
        """Applies the block; maps `[B, P, D]` to `[B, P, D]`."""
        attended = self.attention(self.attention_norm(tokens), training=training)
        tokens = tokens + self.drop_path(attended, training=training)
        x = self.expansion(self.feedforward_norm(tokens))
        x = self.dropouts[0](ops.gelu(x, approximate=self.approximate_gelu), training=training)
        x = self.dropouts[1](self.contraction(x), training=training)
        return tokens + self.drop_path(x, training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = (
            "num_heads feedforward_dim dropout_rate attention_dropout_rate drop_path_rate "
            "approximate_gelu"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
