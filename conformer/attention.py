"""Multi-head self-attention with relative sinusoidal position encodings for both directions."""

import keras
from keras import ops

from tools.layers.rows import Rows

_MASKED = -1e9  # added to the scores of padded keys


def relative_positions(frames, hidden_dim, dtype="float32"):
    """Returns sinusoidal encodings of the offsets `frames - 1` down to `-frames`.

    The last offset, `-frames`, occurs for no pair of frames. It makes the number of rows even, as
    `relative_shift` requires.

    Args:
        frames: number of frames T.
        hidden_dim: width D of an encoding, even.
        dtype: dtype of the result; the angles are computed in float32.

    Returns:
        `[2T, D]`; the even columns are sines, the odd columns are cosines.

    Source: Dai et al., Transformer-XL (2019), appendix B.
    """
    offsets = ops.cast(ops.arange(frames - 1, -frames - 1, -1), "float32")
    exponents = ops.arange(0, hidden_dim, 2, dtype="float32") / hidden_dim
    angles = offsets[:, None] * ops.power(10000.0, -exponents)[None, :]
    interleaved = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)
    return ops.cast(ops.reshape(interleaved, (-1, hidden_dim)), dtype)


def relative_shift(scores):
    """Rearranges scores per relative offset to scores per key.

    Args:
        scores: `[B, H, T, 2T]`; column c holds the score of offset `T - 1 - c` (query minus key).

    Returns:
        `[B, H, T, T]`; entry (i, j) is the score of offset i - j.

    Source: Dai et al., Transformer-XL (2019), appendix B, extended to negative offsets.
    """
    batch, heads, frames, columns = ops.shape(scores)
    # Row i starts at its column T - 1 - i. In the flattened scores these starts are 2T - 1 apart,
    # so that rows of 2T - 1 columns line them up. `ops.slice` has a much faster gradient in
    # TensorFlow 2.16 than indexing (a pad instead of StridedSliceGrad: 3 ms instead of 28 ms for
    # scores [4, 4, 251, 502] on one core of an AMD EPYC).
    flat = ops.reshape(scores, (-1, heads, frames * columns))
    rows = ops.slice(flat, (0, 0, frames - 1), (batch, heads, frames * (columns - 1)))
    rows = ops.reshape(rows, (-1, heads, frames, columns - 1))
    return ops.slice(rows, (0, 0, 0, 0), (batch, heads, frames, frames))


class RelativeMultiHeadAttention(keras.layers.Layer):
    """Self-attention whose scores are the sum of a content term and a relative position term.

    `scores = ((q + u) k^T + shift((q + v) (R W_r)^T)) / sqrt(K)`. The softmax is in float32 and
    over the valid keys. Padded queries give finite values that the caller must mask. The output has
    as many frames as the input.

    Args:
        num_heads: number of heads H.
        head_size: size K of a head.
        bias: projections with a bias: `"output"`, `"all"` (queries, keys, values and output) or
            `"none"`. The projection of the positions never has one.

    Source: Gulati et al., Conformer (2020), section 2.1. Every layer has its own biases u and v,
    one of each per head. NeMo's and Hugging Face's attention of Conformers has the same positions
    and scale; weights with shared (tied) u and v have the same values in every layer.
    """

    def __init__(self, num_heads, head_size, bias="output", **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_size = head_size
        self.bias = bias
        if bias not in ("output", "all", "none"):
            raise ValueError(f"Expected bias output, all or none. Received: {bias}.")

    def build(self, inputs_shape):
        """Creates the variables for inputs `[B, T, D]`."""
        hidden_dim = inputs_shape[-1]
        inner_dim = self.num_heads * self.head_size
        # One kernel for queries, keys and values. The scale gives each third of the kernel the
        # variance that Glorot initialization gives to a separate layer.
        self.query_key_value = keras.layers.Dense(
            3 * inner_dim,
            use_bias=self.bias == "all",
            kernel_initializer=keras.initializers.VarianceScaling(
                (hidden_dim + 3 * inner_dim) / (hidden_dim + inner_dim), "fan_avg", "uniform"
            ),
            dtype=self.dtype_policy,
            name="query_key_value",
        )
        self.query_key_value.build((None, None, hidden_dim))
        self.position = keras.layers.Dense(
            inner_dim, use_bias=False, dtype=self.dtype_policy, name="position"
        )
        self.position.build((None, hidden_dim))
        self.output_projection = keras.layers.Dense(
            hidden_dim,
            use_bias=self.bias != "none",
            dtype=self.dtype_policy,
            name="output_projection",
        )
        self.output_projection.build((None, None, inner_dim))
        self.content_bias, self.position_bias = (
            self.add_weight(
                name=name, shape=(self.num_heads, self.head_size), initializer="glorot_uniform"
            )
            for name in ("content_bias", "position_bias")
        )
        self.built = True

    def call(self, inputs, positions, frame_mask, training=False):
        """Computes self-attention over the valid frames.

        Args:
            inputs: `[B, T, D]`.
            positions: `[2T, D]`, the result of `relative_positions`.
            frame_mask: `[B, T]` bool, True at valid frames.
            training: whether the gradient will be computed.

        Returns:
            `[B, T, D]`.
        """
        layout, frames = Rows(inputs, training), ops.shape(inputs)[1]
        heads = ops.reshape(
            self.query_key_value(layout.rows(inputs)),
            (-1, frames, 3, self.num_heads, self.head_size),
        )
        query, key, value = ops.unstack(ops.transpose(heads, (2, 0, 3, 1, 4)), axis=0)
        scale = self.head_size**-0.5
        query = query * scale
        position = ops.reshape(self.position(positions), (-1, self.num_heads, self.head_size))
        content_query = query + scale * ops.expand_dims(self.content_bias, 1)
        position_query = query + scale * ops.expand_dims(self.position_bias, 1)
        scores = ops.matmul(content_query, ops.transpose(key, (0, 1, 3, 2))) + relative_shift(
            self._position_scores(position_query, ops.transpose(position, (1, 2, 0)))
        )
        mask = ops.where(frame_mask[:, None, None, :], 0.0, _MASKED)
        scores = ops.cast(scores, "float32") + mask
        weights = ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype)
        context = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        context = ops.reshape(context, (-1, frames, self.num_heads * self.head_size))
        return layout.batch(self.output_projection(layout.rows(context)))

    def _position_scores(self, query, position):
        """Multiplies queries `[B, H, T, K]` by positions `[H, K, 2T]`, the same for all of B."""
        if self.num_heads > 1:
            return ops.matmul(query, position)
        # TensorFlow 2.16 with oneDNN computes wrong values and writes out of bounds in a batched
        # product whose right operand has batch dimensions of size 1 only. Remove this branch when
        # the test `attention_1_head` passes without it.
        return ops.tensordot(query, position[0], 1)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_size": self.head_size,
            "bias": self.bias,
        }
