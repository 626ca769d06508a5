"""Transducer lattice: sums the probabilities of all paths, given log probabilities of the edges.

The lattice has a node (t, u) for t = 0..T frames and u = 0..U labels. A blank leads from (t, u) to
(t + 1, u), a label to (t, u + 1). The paths of utterance b start at (0, 0) and end at (T_b, U_b).
A pruned lattice has only S states of each frame.

The sums are computed frame by frame. Inside a frame, all numbers of labels are summed by one
operation: with c[u] the sum of the label edges below state u, the result minus c is a cumulative
log-sum-exp, over the states, of what arrives from the frame before minus c. The backward variables
are the forward variables of the reversed lattice, so that one loop computes both.
"""

import tensorflow as tf

IMPOSSIBLE = -1e30  # log probability of blanks that do not exist; finite, as inf - inf gives NaN
# Smallest log probability of a label. The sums of a row would lose precision with smaller ones.
_SMALLEST_LABEL = -1e9


class Lattice:
    """The lattices of a batch of utterances.

    Args:
        blank: `[B, T, S]` float32 log probability of blank at each frame and state.
        label: `[B, T, S]` float32 log probability of the next label at each frame and state. The
            last state has no next label, and its values are not used.
        frames: `[B]` int32 valid frames.
        label_lengths: `[B]` int32 valid labels.
        first_states: `[B, T]` int32, the state u of each frame at index 0 of the last axis. It is
            0 in the first frame and never decreases. None stands for 0 in all frames, with
            S = U + 1.

    Attributes:
        has_blank: `[B, T, S]` bool, True where the lattice has a blank edge.
        has_label: `[B, T, S]` bool, True where the lattice has a label edge.
        log_likelihood: `[B]` float64 log probability of the labels, in nats.
        loss: `[B]` float32 negative log likelihood; infinite if the lattice has no path.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), sections 2.4, 2.5;
    Kuang et al., Pruned RNN-T for fast, memory-efficient ASR training (2022), section 3.
    """

    def __init__(
        self,
        blank: tf.Tensor,
        label: tf.Tensor,
        frames: tf.Tensor,
        label_lengths: tf.Tensor,
        *,
        first_states: tf.Tensor | None = None,
    ):
        num_frames, width = tf.shape(blank)[1], tf.shape(blank)[2]
        t, k = tf.range(num_frames)[None, :, None], tf.range(width)[None, None, :]
        u = k if first_states is None else k + first_states[:, :, None]
        in_time = t < frames[:, None, None]
        self.has_blank = in_time & (u <= label_lengths[:, None, None])
        self.has_label = in_time & (u < label_lengths[:, None, None]) & (k < width - 1)
        # The recursion is in float64. Log probabilities of long paths are in the thousands, where
        # the spacing of float32 (1e-4) would be the relative error of the gradient.
        impossible = tf.constant(IMPOSSIBLE, tf.float64)
        self._blank = tf.where(self.has_blank, tf.cast(blank, tf.float64), impossible)
        label = tf.where(self.has_label, tf.cast(label, tf.float64), 0.0)
        self._label = tf.maximum(label, tf.constant(_SMALLEST_LABEL, tf.float64))
        self._frames = frames
        last_frame, last_state, steps = tf.maximum(frames - 1, 0)[:, None], label_lengths, None
        if first_states is not None:
            last_state -= tf.gather(first_states, last_frame, batch_dims=1)[:, 0]
            # Difference between the first states of a frame and of the next one in the utterance.
            steps = tf.pad(first_states[:, 1:] - first_states[:, :-1], [[0, 0], [0, 1]])
            steps = tf.where(t[..., 0] < last_frame, steps, 0)
            ahead = tf.pad(steps[:, :-1], [[0, 0], [1, 0]])
            steps = tf.concat([ahead, tf.reverse_sequence(steps, frames, seq_axis=1)], axis=0)
        # Forward, the blanks of the frame before lead into a frame, and the start into the first.
        # Backward, the blanks of the frame itself do, and those of the last frame to the end only.
        start = tf.where(k == 0, tf.zeros_like(self._blank[:, :1]), impossible)
        before = tf.concat([start, self._blank[:, :-1]], axis=1)
        if first_states is not None:
            before = _moved(before, ahead, impossible)
        ends = (t < last_frame[:, None]) | (k == last_state[:, None, None])
        after = self._reverse(tf.where(ends, self._blank, impossible))
        below = tf.cumsum(self._label, axis=2, exclusive=True)
        above = self._reverse(tf.cumsum(self._label, axis=2, reverse=True))
        sums, arriving = _sum_paths(
            tf.concat([before, after], axis=0), tf.concat([below, above], axis=0), steps
        )
        self._alpha, beta = tf.split(sums, 2)
        self._beta, self._after_blank = self._reverse(beta), self._reverse(tf.split(arriving, 2)[1])
        nothing = tf.where(label_lengths == 0, tf.zeros([], tf.float64), impossible)
        likelihood = tf.where(frames > 0, self._beta[:, 0, 0], nothing)
        # `cumulative_logsumexp` ignores NaN.
        edges = tf.stack([self._blank, label])
        has_nan = tf.reduce_any(tf.math.is_nan(edges), axis=(0, 2, 3))
        self.log_likelihood = tf.where(has_nan, tf.constant(float("nan"), tf.float64), likelihood)
        loss = tf.cast(-self.log_likelihood, tf.float32)
        self.loss = tf.where(self.log_likelihood <= 0.5 * _SMALLEST_LABEL, float("inf"), loss)

    def _reverse(self, x):
        """Reverses the frames of each utterance and all states of `[B, T, S]`."""
        return tf.reverse(tf.reverse_sequence(x, self._frames, seq_axis=1), [2])

    def occupancies(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the probability of each edge to be part of the path, given the labels.

        These probabilities are the negative gradient of the loss with respect to the log
        probabilities of the edges.

        Returns:
            Probabilities of the blank edges and of the label edges, `[B, T, S]` float32 each. They
            are zero where the lattice has no edge.
        """
        offset = self._alpha - self.log_likelihood[:, None, None]
        above = tf.pad(self._beta[:, :, 1:], [[0, 0], [0, 0], [0, 1]], constant_values=IMPOSSIBLE)
        blanks = tf.cast(offset + self._after_blank, tf.float32)
        labels = tf.cast(offset + self._label + above, tf.float32)
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


def _moved(x, steps, outside):
    """Returns `x[n, t, k + steps[n, t]]` of `[N, T, S]`, or `outside` beyond the last state."""
    width = tf.shape(x)[2]
    index = tf.range(width) + steps[:, :, None]
    inside = tf.gather(x, tf.minimum(index, width - 1), batch_dims=2)
    return tf.where(index < width, inside, outside)


def _sum_paths(blanks, below, steps):
    """Sums the probabilities of all paths to each node of N lattices, row after row.

    Args:
        blanks: `[N, T, S]` log probability of the edge that leads into each node from the row
            before. The first row is reached from outside.
        below: `[N, T, S]` sum of the log probabilities of the label edges below each state.
        steps: `[N, T]` a row is reached at index k from index `k + steps` of the row before. None
            stands for 0.

    Returns:
        Two tensors `[N, T, S]`: log of the sum at each node, and of what arrives from the row
        before.
    """
    shape = tf.shape(blanks)
    previous = tf.concat([tf.zeros_like(below[:, :1]), below[:, :-1]], axis=1)
    if steps is not None:
        index = tf.range(shape[2]) + steps[:, :, None]
        blanks = tf.where(index < shape[2], blanks, tf.constant(IMPOSSIBLE, blanks.dtype))
        index = tf.transpose(tf.minimum(index, shape[2] - 1), [1, 0, 2])
        previous = _moved(previous, steps, tf.zeros([], blanks.dtype))
    edges = tf.transpose(blanks + previous - below, [1, 0, 2])

    def step(n, row, rows):
        if steps is not None:
            row = tf.gather(row, index[n], batch_dims=1)
        row = tf.math.cumulative_logsumexp(row + edges[n], axis=1)
        return n + 1, row, rows.write(n, row)

    rows = tf.TensorArray(blanks.dtype, shape[1], element_shape=[None, None])
    start = tf.zeros([shape[0], shape[2]], blanks.dtype)
    _, _, rows = tf.while_loop(
        lambda n, *_: n < shape[1], step, (0, start, rows), maximum_iterations=shape[1]
    )
    sums = tf.transpose(rows.stack(), [1, 0, 2]) + below
    last = tf.concat([tf.zeros_like(sums[:, :1]), sums[:, :-1]], axis=1)
    if steps is not None:
        last = _moved(last, steps, tf.zeros([], blanks.dtype))
    return sums, last + blanks
