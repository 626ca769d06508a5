"""Batch normalization as one kernel of TensorFlow, to be handed to a layer for training."""

import tensorflow as tf


def fused_batch_norm(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalizes by the batch's own moments; differentiable in its outputs, not in its moments.

    Composed of single operations, normalization and its gradient read and write the batch some
    twenty times.

    Args:
        x: `[..., C]`, float32.
        scale: `[C]`.
        offset: `[C]`.
        epsilon: added to the variance.

    Returns:
        `[..., C]`, the mean `[C]` and the biased variance `[C]`.
    """
    shape, channels = tf.shape(x), x.shape[-1]
    # The kernel knows images only.
    images = x if x.shape.rank == 4 else tf.reshape(x, [-1, 1, 1, channels])
    found = tf.raw_ops.FusedBatchNormV3(
        x=images,
        scale=scale,
        offset=offset,
        mean=[],
        variance=[],
        epsilon=epsilon,
        is_training=True,
    )
    outputs = found.y if x.shape.rank == 4 else tf.reshape(found.y, shape)
    # It gives the unbiased variance, and takes a single value for two.
    count = tf.cast(tf.size(x) // channels, tf.float32)
    return outputs, found.batch_mean, found.batch_variance * tf.maximum(count - 1.0, 1.0) / count
