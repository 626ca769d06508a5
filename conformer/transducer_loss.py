"""The transducer loss in TensorFlow, with its own gradient and float32 inside.

Forward and backward variables are one recursion over anti-diagonals of the lattice, run on the
utterances and on their mirror images at once, so the loop takes T + U short steps.
"""

import tensorflow as tf

_IMPOSSIBLE = -1e30  # a log probability that survives sums: infinities would breed NaN


def transducer_loss(logits, labels, logit_lengths, label_lengths, blank=0):
    """Computes the negative log likelihood of the labels, summed over all alignments.

    Whatever the padding holds, infinities and NaN included, changes neither the loss nor the
    gradient, which is zero there. A row of length 0 without labels costs 0,
    one with labels, like all labels that cannot be emitted, infinity.

    Args:
        logits: `[B, T, U + 1, V]`, unnormalized, any float type.
        labels: `[B, U]` integers without blank.
        logit_lengths: `[B]` valid frames.
        label_lengths: `[B]` valid labels.
        blank: index of the blank symbol.

    Returns:
        `[B]` float32 losses in nats.

    Raises:
        ValueError: ranks other than 4, 2, 1, 1, or a blank outside the vocabulary.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), sections 2.4, 2.5.
    """
    logits = tf.convert_to_tensor(logits)
    labels, logit_lengths, label_lengths = (
        tf.cast(x, tf.int32) for x in (labels, logit_lengths, label_lengths)
    )
    ranks = [x.shape.rank for x in (logits, labels, logit_lengths, label_lengths)]
    if ranks != [4, 2, 1, 1]:
        raise ValueError(
            "Expected logits [B,T,U+1,V], labels [B,U], logit_lengths [B], label_lengths [B]. "
            f"Received ranks {ranks}."
        )
    if not 0 <= blank < (logits.shape[-1] or blank + 1):
        raise ValueError(f"Expected a blank within {logits.shape[-1]} symbols. Received: {blank}.")

    @tf.custom_gradient
    def loss_of(logits):
        lattice = _Lattice(tf.cast(logits, tf.float32), labels, logit_lengths, label_lengths, blank)

        def gradient(upstream):
            return tf.cast(lattice.gradient(upstream), logits.dtype)

        return lattice.loss, gradient

    return loss_of(logits)


class _Lattice:
    """Nodes (t, u), t = 0..T, u = 0..U: blank leads to t + 1, a label to u + 1, to (T_b, U_b)."""

    def __init__(self, logits, labels, frames, label_lengths, blank):
        self.logits, self.blank_index, self.label_lengths = logits, blank, label_lengths
        max_frames, states = tf.shape(logits)[1], tf.shape(logits)[2]
        t = tf.range(max_frames)[None, :, None]
        u = tf.range(states)[None, None, :]
        in_time = t < frames[:, None, None]
        self.has_blank = in_time & (u <= label_lengths[:, None, None])
        self.has_label = in_time & (u < label_lengths[:, None, None])
        # The last state has no label: any valid index does, its probability is masked below.
        labels = tf.pad(labels[:, : states - 1], [[0, 0], [0, 1]])
        self.labels = tf.where(u[0] < label_lengths[:, None], labels, 0)
        normalizer = tf.reduce_logsumexp(logits, axis=-1)
        # An infinite logit must show in the loss: other paths may pass it by, but not its gradient.
        self.normalizer = tf.where(tf.math.is_finite(normalizer), normalizer, float("nan"))
        index = tf.broadcast_to(self.labels[:, None, :, None], tf.shape(logits[..., :1]))
        of_label = tf.gather(logits, index, batch_dims=3)[..., 0]
        self.blank = tf.where(self.has_blank, logits[..., blank] - self.normalizer, _IMPOSSIBLE)
        self.label = tf.where(self.has_label, of_label - self.normalizer, _IMPOSSIBLE)

        # The mirror image walks from the end: blanks and labels reversed within their own lengths,
        # and the label edges, which belong to the row they stay in, one row later.
        mirrored_blank = _reverse(self.blank, frames, label_lengths + 1)
        mirrored_label = _reverse(self.label, frames, label_lengths)
        row, rows = [[0, 0], [1, 0], [0, 0]], [[0, 0], [0, 1], [0, 0]]
        blank_edges = tf.pad(
            tf.concat([self.blank, mirrored_blank], 0), rows, constant_values=_IMPOSSIBLE
        )
        label_edges = tf.concat(
            [
                tf.pad(self.label, rows, constant_values=_IMPOSSIBLE),
                tf.pad(mirrored_label, row, constant_values=_IMPOSSIBLE),
            ],
            0,
        )
        alpha, mirrored_beta = tf.split(_log_forward(blank_edges, label_edges), 2)
        self.alpha = alpha
        self.beta = _reverse(mirrored_beta, frames + 1, label_lengths + 1)
        end = tf.stack([frames, label_lengths], axis=1)
        self.log_likelihood = tf.gather_nd(alpha, end, batch_dims=1)
        impossible = self.log_likelihood <= 0.5 * _IMPOSSIBLE
        self.loss = tf.where(impossible, float("inf"), -self.log_likelihood)

    def gradient(self, upstream):
        """Gradient of `sum(upstream * loss)` with respect to the logits, zero in padding."""
        offset = self.alpha[:, :-1] - self.log_likelihood[:, None, None]
        below = tf.pad(self.beta[:, :-1, 1:], [[0, 0], [0, 0], [0, 1]], constant_values=_IMPOSSIBLE)
        weight = upstream[:, None, None]
        blanks = tf.where(
            self.has_blank, weight * tf.exp(offset + self.blank + self.beta[:, 1:]), 0.0
        )
        labels = tf.where(self.has_label, weight * tf.exp(offset + self.label + below), 0.0)
        visits = (blanks + labels)[..., None]
        gradient = tf.where(
            self.has_blank[..., None],
            visits * tf.exp(self.logits - self.normalizer[..., None]),
            0.0,
        )
        shape = tf.shape(blanks)
        b, t, u = tf.meshgrid(*(tf.range(shape[i]) for i in range(3)), indexing="ij")
        at_blank = tf.stack([b, t, u, tf.fill(shape, self.blank_index)], axis=-1)
        at_label = tf.stack([b, t, u, tf.broadcast_to(self.labels[:, None], shape)], axis=-1)
        return tf.tensor_scatter_nd_sub(
            gradient, tf.stack([at_blank, at_label]), tf.stack([blanks, labels])
        )


def _reverse(x, first_lengths, second_lengths):
    """Reverses axes 1 and 2 of `[B, T, U]` within each row's own lengths."""
    return tf.reverse_sequence(
        tf.reverse_sequence(x, first_lengths, seq_axis=1), second_lengths, seq_axis=2
    )


def _log_forward(blank, label):
    """Sums the paths from (0, 0) to every node.

    Args:
        blank: `[B, T, U]` log probability of the edge from (t, u) to (t + 1, u).
        label: `[B, T, U]` log probability of the edge from (t, u) to (t, u + 1).

    Returns:
        `[B, T, U]` log probabilities.
    """
    shape = tf.shape(blank)
    batch, rows, columns = shape[0], shape[1], shape[2]
    diagonals = rows + columns - 1

    def skew(x):
        x = tf.transpose(x, [0, 2, 1])
        x = tf.pad(x, [[0, 0], [0, 0], [0, columns]], constant_values=_IMPOSSIBLE)
        x = tf.reshape(x, [batch, -1])[:, :-columns]
        return tf.transpose(tf.reshape(x, [batch, columns, diagonals]), [2, 0, 1])

    blank, label = skew(blank), skew(label)
    start = tf.concat([tf.zeros([batch, 1]), tf.fill([batch, columns - 1], _IMPOSSIBLE)], axis=1)

    def step(n, current, collected):
        stay = current + blank[n - 1]
        move = tf.pad(
            (current + label[n - 1])[:, :-1], [[0, 0], [1, 0]], constant_values=_IMPOSSIBLE
        )
        larger = tf.maximum(stay, move)
        following = larger + tf.math.log1p(tf.exp(-tf.abs(stay - move)))
        return n + 1, following, collected.write(n, following)

    collected = tf.TensorArray(tf.float32, diagonals, element_shape=[None, None])
    _, _, collected = tf.while_loop(
        lambda n, *_: n < diagonals,
        step,
        (1, start, collected.write(0, start)),
        maximum_iterations=diagonals,
    )
    x = tf.reshape(tf.transpose(collected.stack(), [1, 2, 0]), [batch, -1])
    x = tf.reshape(tf.pad(x, [[0, 0], [0, columns]]), [batch, columns, diagonals + 1])
    return tf.transpose(x[:, :, :rows], [0, 2, 1])
