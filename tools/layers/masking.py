"""Masks for padded batches."""

from keras import ops


def sequence_mask(lengths, max_length):
    """Returns a mask of the valid positions of padded rows.

    Args:
        lengths: `[B]` integer tensor.
        max_length: size of the padded axis.

    Returns:
        `[B, max_length]` bool, True at positions below the row's length.
    """
    return ops.expand_dims(ops.arange(max_length), 0) < ops.expand_dims(
        ops.cast(lengths, "int32"), 1
    )
