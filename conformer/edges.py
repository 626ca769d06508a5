"""Log probabilities of the edges of a transducer lattice, computed from logits."""

import tensorflow as tf

from conformer.lattice import Lattice


def next_labels(labels: tf.Tensor, label_lengths: tf.Tensor, num_states: tf.Tensor) -> tf.Tensor:
    """Returns the next label of each state, `[B, U + 1]` int32.

    The last state has no next label: it has index 0, which the lattice does not use.

    Args:
        labels: `[B, U]` int32 without blank; values in padding may be anything.
        label_lengths: `[B]` int32 valid labels.
        num_states: scalar, U + 1.
    """
    labels = tf.pad(labels[:, : num_states - 1], [[0, 0], [0, 1]])
    return tf.where(tf.range(num_states)[None] < label_lengths[:, None], labels, 0)


class Edges:
    """The edges of each frame and state.

    Args:
        logits: `[B, T, S, V]` float32.
        labels: next label of each state, `[B, 1, S]` int32, or `[B, T, S]` if the states of each
            frame are others.
        blank: index of the blank symbol.

    Attributes:
        blank: `[B, T, S]` log probability of blank.
        label: `[B, T, S]` log probability of the next label.
    """

    def __init__(self, logits: tf.Tensor, labels: tf.Tensor, blank: int):
        self._logits, self._labels, self._blank_index = logits, labels, blank
        normalizer = tf.reduce_logsumexp(logits, axis=-1)
        # If a logit is infinite, set the loss to NaN. It could be finite with a NaN gradient.
        self._normalizer = tf.where(tf.math.is_finite(normalizer), normalizer, float("nan"))
        index = tf.broadcast_to(labels[..., None], tf.shape(logits[..., :1]))
        self.blank = logits[..., blank] - self._normalizer
        self.label = tf.gather(logits, index, batch_dims=3)[..., 0] - self._normalizer

    def gradient(self, lattice: Lattice, upstream: tf.Tensor) -> tf.Tensor:
        """Returns the gradient of `sum(upstream * loss)` by the logits; it is zero in padding."""
        blanks, labels = lattice.weighted_occupancies(upstream)
        probabilities = tf.exp(self._logits - self._normalizer[..., None])
        # Zero times garbage in padding is zero.
        gradient = tf.math.multiply_no_nan(probabilities, (blanks + labels)[..., None])
        shape = tf.shape(blanks)
        b, t, u = tf.meshgrid(*(tf.range(shape[i]) for i in range(3)), indexing="ij")
        at_blank = tf.stack([b, t, u, tf.fill(shape, self._blank_index)], axis=-1)
        at_label = tf.stack([b, t, u, tf.broadcast_to(self._labels, shape)], axis=-1)
        return tf.tensor_scatter_nd_sub(
            gradient, tf.stack([at_blank, at_label]), tf.stack([blanks, labels])
        )
