"""Masks of ragged batches."""

from keras import ops


def sequence_mask(lengths, max_length):
    """Marks the valid positions of ragged rows.

    Args:
        lengths: `[B]` integer tensor.
        max_length: size of the padded axis.

    Returns:
        `[B, max_length]` bool, True inside each row's own length.
    """
    return ops.expand_dims(ops.arange(max_length), 0) < ops.expand_dims(
        ops.cast(lengths, "int32"), 1
    )
