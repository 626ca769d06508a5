"""Batches of frames as the rows of one matrix, in training."""

from keras import ops


class Rows:
    """Reshapes batches `[B, T, D]` to rows `[B T, D]` and back in training, and else does nothing.

    TensorFlow has about 40 operations for a dense layer on a batch whose sizes are unknown, and its
    gradient, and fewer than half as many for one on rows. Operations take memory, and time before
    the first step.

    Args:
        inputs: `[B, T, D]`, whose B and T are those of all batches.
        training: whether to reshape.
    """

    def __init__(self, inputs, training):
        self._training = training
        self._frames = ops.shape(inputs)[1] if training else None

    def rows(self, x):
        """Reshapes `[B, T, D]` to `[B T, D]` in training."""
        return ops.reshape(x, (-1, x.shape[-1])) if self._training else x

    def batch(self, x):
        """Reshapes `[B T, D]` to `[B, T, D]` in training."""
        return ops.reshape(x, (-1, self._frames, x.shape[-1])) if self._training else x
