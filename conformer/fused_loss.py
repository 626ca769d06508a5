"""Joint network and transducer loss in one operation, computed in pieces to save memory."""

import functools
from typing import NamedTuple

import tensorflow as tf

from conformer.edges import next_labels
from conformer.lattice import Lattice

# Range of the sum over the vocabulary of exp(logit) in which float32 needs no scaling.
_SMALLEST_SUM, _LARGEST_SUM = 1e-30, 1e30
LOGITS_AT_ONCE = 1 << 20  # their pieces fit into the cache of a CPU
_SMALLEST_OCCUPANCY = 1e-37  # keeps the logarithm finite


class OutputLayer(NamedTuple):
    """The last layer of the joint network: `logits = tanh(joined) @ kernel + bias`.

    Attributes:
        kernel: `[J, V]`.
        bias: `[V]`.
    """

    kernel: tf.Tensor
    bias: tf.Tensor


def fused_transducer_loss(
    encoded,
    predicted,
    output: OutputLayer,
    labels,
    *,
    logit_lengths,
    label_lengths,
    blank=0,
    logits_at_once=LOGITS_AT_ONCE,
    keep_logits=False,
):
    """Computes the transducer loss without keeping the logits `[B, T, U + 1, V]`.

    The logits are computed for a few frames at a time, and again for the gradient unless they are
    kept. Value and gradients are those of `transducer_loss(logits, ...)` with
    `logits = tanh(encoded[:, :, None] + predicted[:, None]) @ kernel + bias`. Values in padding do
    not influence the loss, and their gradient is zero.

    Args:
        encoded: `[B, T, J]` projected encoder frames, any float dtype.
        predicted: `[B, U + 1, J]` projected outputs of the prediction network, same dtype.
        output: the last layer of the joint network.
        labels: `[B, U]` integers without blank.
        logit_lengths: `[B]` valid frames.
        label_lengths: `[B]` valid labels.
        blank: index of the blank symbol.
        logits_at_once: number of logits to keep in memory. At least one frame of each utterance is
            computed at a time.
        keep_logits: whether to keep all logits for the gradient instead of computing them again.

    Returns:
        `[B]` float32 losses in nats.

    Source: Li et al., Improving RNN transducer modeling for end-to-end speech recognition (2019),
    section 3, for the gradient without the tensor of all logits.
    """
    labels, frames, label_lengths = (
        tf.cast(x, tf.int32) for x in (labels, logit_lengths, label_lengths)
    )
    states = tf.shape(predicted)[1]
    inside = tf.sequence_mask(frames, tf.shape(encoded)[1])[..., None]
    encoded = tf.where(inside, encoded, tf.zeros([], encoded.dtype))
    inside = tf.sequence_mask(label_lengths + 1, states)[..., None]
    predicted = tf.where(inside, predicted, tf.zeros([], predicted.dtype))
    following = next_labels(labels, label_lengths, states)

    @tf.custom_gradient
    def loss_of(encoded, predicted, kernel, bias):
        shape = tf.shape(encoded)
        logits_per_frame = tf.maximum(shape[0] * states * tf.shape(kernel)[1], 1)
        frames_at_once = tf.maximum(logits_at_once // logits_per_frame, 1)
        pieces = _Pieces(
            encoded,
            predicted,
            OutputLayer(kernel, bias),
            (following, blank),
            frames_at_once=frames_at_once,
            keep=keep_logits,
        )
        blanks, symbols, normalizer = pieces.log_probabilities()
        lattice = Lattice(blanks, symbols, frames, label_lengths)

        def gradient(upstream):
            return pieces.gradients(lattice, normalizer, upstream)

        return lattice.loss, gradient

    # `identity` reads a variable: a custom gradient takes tensors.
    output = (tf.cast(tf.identity(x), tf.float32) for x in output)
    return loss_of(encoded, predicted, *output)


class _Pieces:
    """Computes on a few frames of all utterances at a time.

    Bias, normalizer and probability of a node are parts of the matrix product with the kernel, so
    that few operations read and write all logits of a piece.

    Args:
        encoded: `[B, T, J]`, finite in padding.
        predicted: `[B, S, J]`, finite in padding.
        output: last layer of the joint network in float32.
        symbols: `[B, S]` next label of each state, and the index of the blank symbol.
        frames_at_once: largest number of frames in a piece.
        keep: whether to keep all logits for the gradient instead of computing them again.
    """

    def __init__(self, encoded, predicted, output, symbols, *, frames_at_once, keep):
        self._predicted, (self._following, self._blank) = predicted, symbols
        self._kernel, bias = output
        self._dtype, self._keep = encoded.dtype, keep
        self._batch, self._frames, self._width = tf.unstack(tf.shape(encoded))
        self._states, self._vocabulary = tf.shape(predicted)[1], tf.shape(self._kernel)[1]
        self._num = tf.maximum((self._frames + frames_at_once - 1) // frames_at_once, 1)
        self._size = (self._frames + self._num - 1) // self._num
        self._encoded = self._cut(encoded)  # [N, B, C, J]
        # Kernel for rows that end with 1, and for rows that end with 1 and a number to add.
        self._with_bias = tf.concat([self._kernel, bias[None]], axis=0)
        self._with_shift = tf.pad(self._with_bias, [[0, 1], [0, 0]], constant_values=1.0)
        self._row = tf.range(self._batch * self._size * self._states)
        following = tf.broadcast_to(
            self._following[:, None], [self._batch, self._size, self._states]
        )
        self._symbols = tf.reshape(following, [-1])  # next label of each row of a piece

    def _cut(self, x):
        """Cuts `[B, T, ...]` into N pieces of C frames, `[N, B, C, ...]`, padded with zeros."""
        padding = [[0, 0], [0, self._num * self._size - self._frames]]
        x = tf.pad(x, padding + [[0, 0]] * (x.shape.rank - 2))
        rest = tf.shape(x)[2:]
        x = tf.reshape(x, tf.concat([[self._batch, self._num, self._size], rest], 0))
        return tf.transpose(x, [1, 0, 2, *range(3, x.shape.rank)])

    def _join(self, x):
        """Joins pieces `[N, B, C, ...]` to `[B, T, ...]`; the inverse of `_cut`."""
        x = tf.transpose(x, [1, 0, 2, *range(3, x.shape.rank)])
        shape = tf.concat([[self._batch, self._num * self._size], tf.shape(x)[3:]], 0)
        return tf.reshape(x, shape)[:, : self._frames]

    def _hidden(self, number):
        """Returns the input of the last layer, `[B, C, S, J]` float32.

        The sum and its tanh are in the dtype of the encoder, as in the joint network.
        """
        joined = self._encoded[number][:, :, None] + self._predicted[:, None]
        return tf.cast(tf.tanh(joined), tf.float32)

    def _rows(self, x):
        return tf.reshape(x, [-1, self._width])

    def _nodes(self, x):
        return tf.reshape(x, [self._batch, self._size, self._states])

    def log_probabilities(self):
        """Returns the log probabilities of blanks and next labels and the normalizer.

        Returns:
            Three tensors `[B, T, S]` float32.
        """

        def step(number, *collected):
            rows = tf.pad(self._rows(self._hidden(number)), [[0, 0], [0, 1]], constant_values=1.0)
            logits = tf.matmul(rows, self._with_bias)
            normalizer = _log_sum_exp(logits)
            place = self._row * self._vocabulary
            flat = tf.reshape(logits, [-1])
            blank = tf.gather(flat, place + self._blank)
            label = tf.gather(flat, place + self._symbols)
            found = [blank - normalizer, label - normalizer, normalizer]
            found = [*map(self._nodes, found)] + [logits] * self._keep
            return (
                number + 1,
                *(a.write(number, x) for a, x in zip(collected, found, strict=True)),
            )

        # The gradient may be computed several times, outside a graph.
        array = functools.partial(tf.TensorArray, tf.float32, self._num, clear_after_read=False)
        arrays = [array() for _ in range(4 if self._keep else 3)]
        _, *arrays = tf.while_loop(
            lambda number, *_: number < self._num, step, (0, *arrays), parallel_iterations=1
        )
        self._kept = arrays.pop() if self._keep else None
        nodes = [None, None, None, None]
        return [self._join(tf.ensure_shape(array.stack(), nodes)) for array in arrays]

    def _shifted(self, number, rows, shift):
        """Returns logits of rows `[N, J]` plus a number for each row `[N, 1]`."""
        if self._kept is not None:
            return self._kept.read(number) + shift
        rows = tf.concat([rows, tf.ones_like(shift), shift], axis=1)
        return tf.matmul(rows, self._with_shift)

    def gradients(self, lattice, normalizer, upstream):
        """Returns the gradients by encoder, prediction, kernel and bias.

        Args:
            lattice: the lattice of the log probabilities.
            normalizer: `[B, T, S]`, as `log_probabilities` returns it.
            upstream: `[B]` upstream gradient of the losses.
        """
        blanks, labels = lattice.occupancies()
        # The gradient by the logits is `weight * (occupied * probabilities)`, minus
        # `weight * blank` and `weight * label` at their symbols.
        weight = tf.where(lattice.has_blank, upstream[:, None, None], 0.0)
        blanks, labels, weights, normalizer = map(self._cut, (blanks, labels, weight, normalizer))
        shift = tf.math.log(tf.maximum(blanks + labels, _SMALLEST_OCCUPANCY)) - normalizer
        columns = [tf.stack([self._row, tf.fill(tf.shape(self._row), self._blank)], axis=1)]
        columns.append(tf.stack([self._row, self._symbols], axis=1))
        places = tf.concat(columns, axis=0)

        def step(number, by_encoded, by_predicted, by_kernel):
            hidden = self._hidden(number)
            rows = self._rows(hidden)
            by_logits = tf.exp(self._shifted(number, rows, tf.reshape(shift[number], [-1, 1])))
            taken = tf.stack([blanks[number], labels[number]])
            by_logits = tf.tensor_scatter_nd_sub(by_logits, places, tf.reshape(taken, [-1]))
            scale = tf.reshape(weights[number], [-1, 1])
            weighted = tf.concat([rows * scale, scale], axis=1)
            by_kernel += tf.matmul(weighted, by_logits, transpose_a=True)
            by_hidden = tf.matmul(by_logits, self._kernel, transpose_b=True)
            by_sum = tf.raw_ops.TanhGrad(y=rows, dy=by_hidden)
            by_sum = tf.reshape(by_sum, tf.shape(hidden))
            by_encoded = by_encoded.write(number, tf.reduce_sum(by_sum, axis=2))
            by_predicted += tf.reduce_sum(by_sum, axis=1)
            return number + 1, by_encoded, by_predicted, by_kernel

        start = (
            0,
            tf.TensorArray(tf.float32, self._num),
            tf.zeros(tf.shape(self._predicted)),
            tf.zeros_like(self._with_bias),
        )
        _, by_encoded, by_predicted, by_kernel = tf.while_loop(
            lambda number, *_: number < self._num, step, start, parallel_iterations=1
        )
        by_encoded = self._join(tf.ensure_shape(by_encoded.stack(), [None, None, None, None]))
        # The weight is the same for all nodes of an utterance.
        by_encoded = tf.where(lattice.has_blank[:, :, :1], weight[:, :, :1] * by_encoded, 0.0)
        by_predicted = tf.where(
            lattice.has_blank[:, 0, :, None], weight[:, 0, :, None] * by_predicted, 0.0
        )
        return (
            tf.cast(by_encoded, self._dtype),
            tf.cast(by_predicted, self._dtype),
            by_kernel[:-1],
            by_kernel[-1],
        )


def _log_sum_exp(logits):
    """Returns the log of the sum of exponentials over the last axis of `[N, V]`; see `Edges`."""
    total = tf.reduce_sum(tf.exp(logits), axis=-1)
    fits = tf.reduce_all((total > _SMALLEST_SUM) & (total < _LARGEST_SUM))
    normalizer = tf.cond(
        fits, lambda: tf.math.log(total), lambda: tf.reduce_logsumexp(logits, axis=-1)
    )
    # If a logit is infinite, set the loss to NaN. It could be finite with a NaN gradient.
    return tf.where(tf.math.is_finite(normalizer), normalizer, float("nan"))
