"""Joint network and transducer loss in one operation, computed in pieces to save memory."""

import functools
from typing import NamedTuple

import tensorflow as tf

from conformer.edges import next_labels
from conformer.lattice import Lattice
from tools.training.kernels import on_cpu

# Range of the sum over the vocabulary of exp(logit) in which float32 needs no scaling.
_SMALLEST_SUM, _LARGEST_SUM = 1e-30, 1e30
# Nodes that the paths visit with a smaller probability have no gradient. It would be below the
# rounding errors of float32, and most nodes of a lattice are such nodes.
_SMALLEST_OCCUPANCY = 1e-7
_COLUMNS = 4  # added to the inputs of the last layer; a multiple of 16 bytes keeps rows aligned
_TANH_IS_ONE = 20.0  # a number whose tanh is 1


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
    logits_at_once=None,
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
        logits_at_once: number of logits to compute at a time. At least one frame of each utterance
            is computed at a time. Default: 2^21; if all logits are kept, 2^22, or 2^26 on a GPU.
        keep_logits: whether to keep all logits for the gradient instead of computing them again.

    Returns:
        `[B]` float32 losses in nats.

    Source: Li et al., Improving RNN transducer modeling for end-to-end speech recognition (2019),
    section 3, for the gradient without the tensor of all logits.
    """
    if logits_at_once is None:
        logits_at_once = 1 << (21 if not keep_logits else 22 if on_cpu() else 26)
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

    The inputs of the last layer have four more columns: a one, whose gradient is that of the bias,
    and zeros, one of which is the place of a number to add to all logits of a row. On a CPU, bias,
    normalizer and probability of a node are thus parts of the matrix product with the kernel, so
    that few operations read and write all logits of a piece.

    Args:
        encoded: `[B, T, J]`, finite in padding.
        predicted: `[B, S, J]`, finite in padding.
        output: last layer of the joint network in float32.
        symbols: `[B, S]` next label of each state, and the index of the blank symbol.
        frames_at_once: largest number of frames in a piece.
        keep: whether to keep the exponentials of all logits for the gradient instead of computing
            them again.
    """

    def __init__(self, encoded, predicted, output, symbols, *, frames_at_once, keep):
        following, self._blank = symbols
        kernel, self._bias = output
        self._dtype, self._keep = encoded.dtype, keep
        self._batch, self._frames, self._width = tf.unstack(tf.shape(encoded))
        self._states, self._vocabulary = tf.shape(predicted)[1], tf.shape(kernel)[1]
        self._num = tf.maximum((self._frames + frames_at_once - 1) // frames_at_once, 1)
        self._size = (self._frames + self._num - 1) // self._num
        self._encoded = self._cut(_with_columns(encoded, _TANH_IS_ONE))  # [N, B, C, J + 4]
        self._predicted = _with_columns(predicted, 0.0)
        # A GPU may round the factors of a product to 11 bits (TF32). There, bias and other numbers
        # are added to the product. On a CPU they are part of it, which saves operations.
        self._adds_in_product = on_cpu()
        rows = tf.stack([self._bias, tf.ones_like(self._bias)])
        rows = tf.pad(rows, [[0, _COLUMNS - 2], [0, 0]])
        rows = rows if self._adds_in_product else tf.zeros_like(rows)
        self._kernel = tf.concat([kernel, rows], axis=0)  # [J + 4, V]
        self._row = tf.range(self._batch * self._size * self._states)
        following = tf.broadcast_to(following[:, None], [self._batch, self._size, self._states])
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

    def _rows(self, number):
        """Returns the inputs of the last layer, `[B C S, J + 4]` float32.

        The sum and its tanh are in the dtype of the encoder, as in the joint network.
        """
        joined = self._encoded[number][:, :, None] + self._predicted[:, None]
        return tf.reshape(tf.cast(tf.tanh(joined), tf.float32), [-1, self._width + _COLUMNS])

    def _nodes(self, x):
        return tf.reshape(x, [self._batch, self._size, self._states])

    def log_probabilities(self):
        """Returns the log probabilities of blanks and next labels and the normalizer.

        Returns:
            Three tensors `[B, T, S]` float32.
        """

        def step(number, *collected):
            logits = self._logits(self._rows(number))
            exponentials, total, normalizer = _exponentials(logits)
            place = self._row * self._vocabulary
            flat = tf.reshape(logits, [-1])
            blank = tf.gather(flat, place + self._blank)
            label = tf.gather(flat, place + self._symbols)
            found = [*map(self._nodes, (blank - normalizer, label - normalizer, normalizer))]
            found += [exponentials, total] if self._keep else []
            return (
                number + 1,
                *(a.write(number, x) for a, x in zip(collected, found, strict=True)),
            )

        # The gradient may be computed several times, outside a graph.
        array = functools.partial(tf.TensorArray, tf.float32, self._num, clear_after_read=False)
        arrays = [array() for _ in range(5 if self._keep else 3)]
        _, *arrays = tf.while_loop(
            lambda number, *_: number < self._num, step, (0, *arrays), parallel_iterations=1
        )
        self._kept = arrays[3:]
        nodes = [None, None, None, None]
        return [self._join(tf.ensure_shape(array.stack(), nodes)) for array in arrays[:3]]

    def _logits(self, rows):
        """Returns logits `[N, V]` of rows `[N, J + 4]`."""
        logits = tf.matmul(rows, self._kernel)
        return logits if self._adds_in_product else logits + self._bias

    def gradients(self, lattice, normalizer, upstream):
        """Returns the gradients by encoder, prediction, kernel and bias.

        Args:
            lattice: the lattice of the log probabilities.
            normalizer: `[B, T, S]`, as `log_probabilities` returns it.
            upstream: `[B]` upstream gradient of the losses.
        """
        blanks, labels = lattice.occupancies()
        nodes = tf.stack([blanks, labels, normalizer], axis=-1)
        nodes = tf.reshape(self._cut(nodes), [self._num, -1, 3])
        predicted = tf.reshape(self._predicted, [-1, self._width + _COLUMNS])

        def step(number, by_encoded, by_predicted, by_kernel):
            chosen = _visited(nodes[number])
            frame, utterance = chosen // self._states, chosen // (self._size * self._states)
            state = utterance * self._states + chosen % self._states
            encoded = tf.reshape(self._encoded[number], [-1, self._width + _COLUMNS])
            joined = tf.gather(encoded, frame) + tf.gather(predicted, state)
            rows = tf.cast(tf.tanh(joined), tf.float32)
            rows, by_logits = self._by_logits(
                number, chosen, rows, tf.gather(nodes[number], chosen)
            )
            weighted = rows * tf.gather(upstream, utterance)[:, None]
            by_kernel += tf.matmul(weighted, by_logits, transpose_a=True)
            by_hidden = tf.matmul(by_logits, self._kernel, transpose_b=True)
            by_sum = tf.raw_ops.TanhGrad(y=rows, dy=by_hidden)
            of_frames = tf.math.unsorted_segment_sum(by_sum, frame, self._batch * self._size)
            by_encoded = by_encoded.write(number, of_frames)
            by_predicted = tf.tensor_scatter_nd_add(by_predicted, state[:, None], by_sum)
            return number + 1, by_encoded, by_predicted, by_kernel

        start = (
            0,
            tf.TensorArray(tf.float32, self._num),
            tf.zeros(tf.shape(predicted)),
            tf.zeros_like(self._kernel),
        )
        _, by_encoded, by_predicted, by_kernel = tf.while_loop(
            lambda number, *_: number < self._num, step, start, parallel_iterations=1
        )
        width = self._width + _COLUMNS
        by_encoded = tf.reshape(by_encoded.stack(), [self._num, self._batch, self._size, width])
        by_encoded = self._join(by_encoded)[..., : self._width]
        by_predicted = tf.reshape(by_predicted, [self._batch, self._states, width])
        by_predicted = by_predicted[..., : self._width]
        weight = upstream[:, None, None]
        by_encoded = tf.where(lattice.has_blank[:, :, :1], weight * by_encoded, 0.0)
        by_predicted = tf.where(lattice.has_blank[:, 0, :, None], weight * by_predicted, 0.0)
        return (
            tf.cast(by_encoded, self._dtype),
            tf.cast(by_predicted, self._dtype),
            by_kernel[: self._width],
            by_kernel[self._width],
        )

    def _by_logits(self, number, chosen, rows, nodes):
        """Returns the gradient by the logits of nodes of a piece, without upstream gradient.

        It is `occupied * probabilities`, minus `blank` and `label` at their symbols.

        Args:
            number: number of the piece.
            chosen: `[M]` indices of the nodes in the piece.
            rows: `[M, J + 4]` inputs of the last layer.
            nodes: `[M, 3]` occupancies of blank and label, and normalizer.

        Returns:
            The rows, whose additional columns may have changed, and the gradient `[M, V]`.
        """
        blank, label, normalizer = tf.unstack(nodes, axis=1)
        occupied, row = blank + label, tf.range(tf.size(chosen))

        def places(column):
            return tf.stack([row, tf.broadcast_to(column, tf.shape(row))], axis=1)

        if self._keep:
            exponentials, total = (tf.gather(array.read(number), chosen) for array in self._kept)
            by_logits = exponentials * (occupied / total)[:, None]
        else:
            shift = tf.math.log(occupied) - normalizer
            if self._adds_in_product:
                # In place, as `rows` has no other use.
                rows = tf.tensor_scatter_nd_update(rows, places(self._width + 1), shift)
                by_logits = tf.exp(self._logits(rows))
            else:
                by_logits = tf.exp(self._logits(rows) + shift[:, None])
        symbols = tf.concat([places(self._blank), places(tf.gather(self._symbols, chosen))], axis=0)
        taken = tf.concat([blank, label], axis=0)
        return rows, tf.tensor_scatter_nd_sub(by_logits, symbols, taken)


def _visited(nodes):
    """Returns the indices `[M]` of the nodes `[N, 3]` that have a gradient."""
    # Also those whose occupancy is not a number.
    visited = tf.logical_not(nodes[:, 0] + nodes[:, 1] < _SMALLEST_OCCUPANCY)
    return tf.cast(tf.where(visited)[:, 0], tf.int32)


def _with_columns(x, first):
    """Appends columns to `[..., J]`: the first one has a value, the others are zero."""
    columns = tf.concat([[first], tf.zeros([_COLUMNS - 1])], axis=0)
    shape = tf.concat([tf.shape(x)[:-1], [_COLUMNS]], axis=0)
    return tf.concat([x, tf.broadcast_to(tf.cast(columns, x.dtype), shape)], axis=-1)


def _exponentials(logits):
    """Returns exponentials of logits `[N, V]`, their sums, and the logs of the sums of exp(logits).

    The exponentials of a row may have a common factor. The last two tensors are `[N]`. See `Edges`.
    """
    exponentials = tf.exp(logits)
    total = tf.reduce_sum(exponentials, axis=-1)

    def scaled():
        largest = tf.reduce_max(logits, axis=-1)
        largest = tf.where(tf.math.is_finite(largest), largest, 0.0)
        exponentials = tf.exp(logits - largest[:, None])
        total = tf.reduce_sum(exponentials, axis=-1)
        return exponentials, total, tf.math.log(total) + largest

    fits = tf.reduce_all((total > _SMALLEST_SUM) & (total < _LARGEST_SUM))
    exponentials, total, normalizer = tf.cond(
        fits, lambda: (exponentials, total, tf.math.log(total)), scaled
    )
    # If a logit is infinite, set the loss to NaN. It could be finite with a NaN gradient.
    normalizer = tf.where(tf.math.is_finite(normalizer), normalizer, float("nan"))
    return exponentials, total, normalizer
