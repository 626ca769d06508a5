"""Joint network and transducer loss in one operation, computed in pieces to save memory."""

from typing import NamedTuple

import tensorflow as tf

from conformer.edges import next_labels
from conformer.lattice import Lattice

# Range of the sum over the vocabulary of exp(logit) in which float32 needs no scaling.
_SMALLEST_SUM, _LARGEST_SUM = 1e-30, 1e30


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
    logits_at_once=1 << 20,
):
    """Computes the transducer loss without keeping the logits `[B, T, U + 1, V]`.

    The logits are computed for a few frames at a time, and again for the gradient. Value and
    gradients are those of `transducer_loss(logits, ...)` with
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
        )
        blanks, symbols, normalizer = pieces.log_probabilities()
        lattice = Lattice(blanks, symbols, frames, label_lengths)

        def gradient(upstream):
            return pieces.gradients(*lattice.weighted_occupancies(upstream), normalizer)

        return lattice.loss, gradient

    # `identity` reads a variable: a custom gradient takes tensors.
    output = (tf.cast(tf.identity(x), tf.float32) for x in output)
    return loss_of(encoded, predicted, *output)


class _Pieces:
    """Computes on a few frames of all utterances at a time.

    Args:
        encoded: `[B, T, J]`, finite in padding.
        predicted: `[B, S, J]`, finite in padding.
        output: last layer of the joint network in float32.
        symbols: `[B, S]` next label of each state, and the index of the blank symbol.
        frames_at_once: largest number of frames in a piece.
    """

    def __init__(self, encoded, predicted, output, symbols, *, frames_at_once):
        self._predicted, (self._following, self._blank) = predicted, symbols
        self._kernel, self._bias = output
        self._dtype = encoded.dtype
        self._batch, self._frames, self._width = tf.unstack(tf.shape(encoded))
        self._states, self._vocabulary = tf.shape(predicted)[1], tf.shape(self._kernel)[1]
        self._num = tf.maximum((self._frames + frames_at_once - 1) // frames_at_once, 1)
        self._size = (self._frames + self._num - 1) // self._num
        self._encoded = self._cut(encoded)  # [N, B, C, J]
        # Rows of the kernel for the labels and the blank, [B, 1, S, J] and [J].
        columns = tf.transpose(self._kernel)
        self._of_labels = tf.gather(columns, self._following)[:, None]
        self._of_blank = columns[self._blank]

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

    def _logits(self, rows):
        """Returns logits `[N, V]` of rows `[N, J]`."""
        return tf.matmul(rows, self._kernel) + self._bias

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
            hidden = self._hidden(number)
            logits = self._logits(self._rows(hidden))
            normalizer = self._nodes(_log_sum_exp(logits))
            label_bias = tf.gather(self._bias, self._following)[:, None]
            blank = self._nodes(logits[:, self._blank])
            label = tf.reduce_sum(hidden * self._of_labels, axis=-1) + label_bias
            found = (blank - normalizer, label - normalizer, normalizer)
            return (
                number + 1,
                *(a.write(number, x) for a, x in zip(collected, found, strict=True)),
            )

        arrays = [tf.TensorArray(tf.float32, self._num) for _ in range(3)]
        _, *arrays = tf.while_loop(
            lambda number, *_: number < self._num, step, (0, *arrays), parallel_iterations=1
        )
        nodes = [None, None, None, None]
        return [self._join(tf.ensure_shape(array.stack(), nodes)) for array in arrays]

    def gradients(self, blanks, labels, normalizer):
        """Returns the gradients by encoder, prediction, kernel and bias.

        Args:
            blanks: `[B, T, S]` probabilities of the blank edges, times the upstream gradient.
            labels: the same of the label edges.
            normalizer: `[B, T, S]`, as `log_probabilities` returns it.
        """
        blanks, labels, normalizer = (self._cut(x) for x in (blanks, labels, normalizer))

        def step(number, by_encoded, by_predicted, by_kernel, by_bias, by_label, by_blank):
            hidden = self._hidden(number)
            blank, label = blanks[number][..., None], labels[number][..., None]
            rows = self._rows(hidden)
            shift = tf.reshape(normalizer[number], [-1, 1])
            probabilities = tf.exp(self._logits(rows) - shift)
            # The gradient by the logits is `occupied * probabilities`, minus `blank` and `label`
            # at their symbols. The products with these sparse terms are computed apart.
            occupied = tf.reshape(blank + label, [-1, 1])
            by_kernel += tf.matmul(rows * occupied, probabilities, transpose_a=True)
            by_bias += tf.linalg.matvec(probabilities, occupied[:, 0], transpose_a=True)
            by_label += tf.reduce_sum(label * hidden, axis=1)
            by_blank += tf.reduce_sum(blank * hidden, axis=(0, 1, 2))
            by_hidden = occupied * tf.matmul(probabilities, self._kernel, transpose_b=True)
            by_hidden = tf.reshape(by_hidden, tf.shape(hidden))
            by_hidden -= blank * self._of_blank + label * self._of_labels
            by_sum = by_hidden * (1.0 - tf.square(hidden))
            by_encoded = by_encoded.write(number, tf.reduce_sum(by_sum, axis=2))
            by_predicted += tf.reduce_sum(by_sum, axis=1)
            return number + 1, by_encoded, by_predicted, by_kernel, by_bias, by_label, by_blank

        zeros = tf.zeros(tf.shape(self._predicted))
        start = (
            0,
            tf.TensorArray(tf.float32, self._num),
            zeros,
            tf.zeros_like(self._kernel),
            tf.zeros_like(self._bias),
            zeros,
            tf.zeros([self._width]),
        )
        _, by_encoded, by_predicted, by_kernel, by_bias, by_label, by_blank = tf.while_loop(
            lambda number, *_: number < self._num, step, start, parallel_iterations=1
        )
        # Subtract the sparse terms: one row of the transposed kernel for each label and the blank.
        symbols = tf.concat([tf.reshape(self._following, [-1]), [self._blank]], axis=0)
        sparse = tf.concat([self._rows(by_label), by_blank[None]], axis=0)
        by_kernel -= tf.transpose(tf.math.unsorted_segment_sum(sparse, symbols, self._vocabulary))
        counts = tf.reduce_sum(labels, axis=(0, 2))  # [B, S]
        counts = tf.concat([tf.reshape(counts, [-1]), [tf.reduce_sum(blanks)]], axis=0)
        by_bias -= tf.math.unsorted_segment_sum(counts, symbols, self._vocabulary)
        by_encoded = self._join(tf.ensure_shape(by_encoded.stack(), [None, None, None, None]))
        return (
            tf.cast(by_encoded, self._dtype),
            tf.cast(by_predicted, self._dtype),
            by_kernel,
            by_bias,
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
