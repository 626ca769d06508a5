"""CTC loss for padded batches."""

import tensorflow as tf


def ctc_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    logit_lengths: tf.Tensor,
    label_lengths: tf.Tensor,
    *,
    blank: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the CTC loss of each row; the loss is 0 if a row has too few frames for its labels.

    Args:
        logits: `[B, T, V]` float32.
        labels: `[B, U]` integers; values beyond the row's length are ignored.
        logit_lengths: `[B]` valid frames.
        label_lengths: `[B]` valid labels.
        blank: index of the blank.

    Returns:
        `[B]` float32 losses, and `[B]` bool: whether a row has enough frames, and at least one.

    Source: Graves et al., Connectionist temporal classification (2006).
    """
    inside = tf.sequence_mask(label_lengths, tf.shape(labels)[1])
    labels = tf.where(inside, labels, tf.cast(0 if blank else 1, labels.dtype))
    # Two equal labels in sequence need a blank between them.
    repeated = (labels[:, 1:] == labels[:, :-1]) & inside[:, 1:]
    needed = label_lengths + tf.reduce_sum(tf.cast(repeated, tf.int32), axis=1)
    fits = (logit_lengths >= needed) & (logit_lengths > 0)
    losses = tf.nn.ctc_loss(
        labels,
        logits,
        tf.where(fits, label_lengths, 0),
        tf.maximum(logit_lengths, 1),
        logits_time_major=False,
        blank_index=blank,
    )
    return tf.where(fits, losses, 0.0), fits
