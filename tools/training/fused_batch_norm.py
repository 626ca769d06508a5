"""Batch normalization with TensorFlow's fused kernel, for `BatchNormalization.normalize_batch`."""

import tensorflow as tf


def fused_batch_norm(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalizes a batch with its own mean and variance. Only the outputs have a gradient.

    The fused kernel is faster than single operations, which together with their gradient read and
    write the batch about twenty times.

    Args:
        x: `[..., C]` float32.
        scale: `[C]`.
        offset: `[C]`.
        epsilon: added to the variance.

    Returns:
        The normalized batch `[..., C]`, the mean `[C]` and the biased variance `[C]`.
    """
    shape, channels = tf.shape(x), x.shape[-1]
    # The kernel accepts images only.
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
    # Convert the unbiased variance to the biased one. For 1 value, the kernel divides by 1, not 0.
    count = tf.cast(tf.size(x) // channels, tf.float32)
    return outputs, found.batch_mean, found.batch_variance * tf.maximum(count - 1.0, 1.0) / count
