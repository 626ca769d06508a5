"""Transducer lattice: sums the probabilities of all paths, given log probabilities of the edges.

The lattice has a node (t, u) for t = 0..T frames and u = 0..U labels. A blank leads from (t, u) to
(t + 1, u), a label to (t, u + 1). The paths of utterance b start at (0, 0) and end at (T_b, U_b).
The forward variables are computed one anti-diagonal after the other, in T + U steps. The backward
variables are the forward variables of the reversed lattice, so that one loop computes both.
"""

import tensorflow as tf

IMPOSSIBLE = -1e30  # log probability of edges that do not exist; finite, as inf - inf gives NaN


class Lattice:
    """The lattices of a batch of utterances.

    Args:
        blank: `[B, T, U + 1]` float32 log probability of blank at each frame and state.
        label: `[B, T, U + 1]` float32 log probability of the next label at each frame and state.
            The last state has no next label, and its values are not used.
        frames: `[B]` int32 valid frames.
        label_lengths: `[B]` int32 valid labels.

    Attributes:
        has_blank: `[B, T, U + 1]` bool, True where the lattice has a blank edge.
        has_label: `[B, T, U + 1]` bool, True where the lattice has a label edge.
        log_likelihood: `[B]` float64 log probability of the labels, in nats.
        loss: `[B]` float32 negative log likelihood; infinite if the lattice has no path.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), sections 2.4, 2.5.
    """

    def __init__(
        self, blank: tf.Tensor, label: tf.Tensor, frames: tf.Tensor, label_lengths: tf.Tensor
    ):
        t = tf.range(tf.shape(blank)[1])[None, :, None]
        u = tf.range(tf.shape(blank)[2])[None, None, :]
        in_time = t < frames[:, None, None]
        self.has_blank = in_time & (u <= label_lengths[:, None, None])
        self.has_label = in_time & (u < label_lengths[:, None, None])
        # The recursion is in float64. Log probabilities of long paths are in the thousands, where
        # the spacing of float32 (1e-4) would be the relative error of the gradient.
        impossible = tf.constant(IMPOSSIBLE, tf.float64)
        self._blank = tf.where(self.has_blank, tf.cast(blank, tf.float64), impossible)
        self._label = tf.where(self.has_label, tf.cast(label, tf.float64), impossible)
        # The reversed lattice: both axes are reversed within the lengths of each utterance. Label
        # edges stay in their row, so that the reversed ones move down by one row.
        mirrored_blank = _reverse(self._blank, frames, label_lengths + 1)
        mirrored_label = _reverse(self._label, frames, label_lengths)
        row, rows = [[0, 0], [1, 0], [0, 0]], [[0, 0], [0, 1], [0, 0]]
        blank_edges = tf.pad(
            tf.concat([self._blank, mirrored_blank], 0), rows, constant_values=IMPOSSIBLE
        )
        label_edges = tf.concat(
            [
                tf.pad(self._label, rows, constant_values=IMPOSSIBLE),
                tf.pad(mirrored_label, row, constant_values=IMPOSSIBLE),
            ],
            0,
        )
        self._alpha, mirrored_beta = tf.split(_log_forward(blank_edges, label_edges), 2)
        self._beta = _reverse(mirrored_beta, frames + 1, label_lengths + 1)
        end = tf.stack([frames, label_lengths], axis=1)
        self.log_likelihood = tf.gather_nd(self._alpha, end, batch_dims=1)
        loss = tf.cast(-self.log_likelihood, tf.float32)
        self.loss = tf.where(self.log_likelihood <= 0.5 * IMPOSSIBLE, float("inf"), loss)

    def occupancies(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the probability of each edge to be part of the path, given the labels.

        These probabilities are the negative gradient of the loss with respect to the log
        probabilities of the edges.

        Returns:
            Probabilities of the blank edges and of the label edges, `[B, T, U + 1]` float32 each.
            They are zero where the lattice has no edge.
        """
        offset = self._alpha[:, :-1] - self.log_likelihood[:, None, None]
        below = tf.pad(self._beta[:, :-1, 1:], [[0, 0], [0, 0], [0, 1]], constant_values=IMPOSSIBLE)
        blanks = tf.cast(offset + self._blank + self._beta[:, 1:], tf.float32)
        labels = tf.cast(offset + self._label + below, tf.float32)
        blanks = tf.where(self.has_blank, tf.exp(blanks), 0.0)
        return blanks, tf.where(self.has_label, tf.exp(labels), 0.0)

    def weighted_occupancies(self, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `occupancies` times the upstream gradient `[B]` of the losses.

        They are zero where the lattice has no edge, whatever the upstream gradient is.
        """
        weight = upstream[:, None, None]
        blanks, labels = self.occupancies()
        return (
            tf.where(self.has_blank, weight * blanks, 0.0),
            tf.where(self.has_label, weight * labels, 0.0),
        )


def _reverse(x, first_lengths, second_lengths):
    """Reverses axes 1 and 2 of `[B, T, U]` within the lengths of each utterance."""
    return tf.reverse_sequence(
        tf.reverse_sequence(x, first_lengths, seq_axis=1), second_lengths, seq_axis=2
    )


def _log_forward(blank, label):
    """Sums the probabilities of all paths from (0, 0) to each node.

    Args:
        blank: `[B, T, U]` log probability of the edge from (t, u) to (t + 1, u).
        label: `[B, T, U]` log probability of the edge from (t, u) to (t, u + 1).

    Returns:
        `[B, T, U]` log of the sum at each node.
    """
    shape = tf.shape(blank)
    batch, rows, columns = shape[0], shape[1], shape[2]
    diagonals = rows + columns - 1

    def skew(x):
        x = tf.transpose(x, [0, 2, 1])
        x = tf.pad(x, [[0, 0], [0, 0], [0, columns]], constant_values=IMPOSSIBLE)
        x = tf.reshape(x, [batch, -1])[:, :-columns]
        return tf.transpose(tf.reshape(x, [batch, columns, diagonals]), [2, 0, 1])

    blank, label = skew(blank), skew(label)
    impossible = tf.constant(IMPOSSIBLE, blank.dtype)
    start = tf.zeros([batch, 1], blank.dtype)
    start = tf.concat([start, tf.fill([batch, columns - 1], impossible)], axis=1)

    def step(n, current, collected):
        stay = current + blank[n - 1]
        move = tf.pad(
            (current + label[n - 1])[:, :-1], [[0, 0], [1, 0]], constant_values=IMPOSSIBLE
        )
        larger = tf.maximum(stay, move)
        following = larger + tf.math.log1p(tf.exp(-tf.abs(stay - move)))
        return n + 1, following, collected.write(n, following)

    collected = tf.TensorArray(blank.dtype, diagonals, element_shape=[None, None])
    _, _, collected = tf.while_loop(
        lambda n, *_: n < diagonals,
        step,
        (1, start, collected.write(0, start)),
        maximum_iterations=diagonals,
    )
    x = tf.reshape(tf.transpose(collected.stack(), [1, 2, 0]), [batch, -1])
    x = tf.reshape(tf.pad(x, [[0, 0], [0, columns]]), [batch, columns, diagonals + 1])
    return tf.transpose(x[:, :, :rows], [0, 2, 1])
