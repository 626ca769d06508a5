"""Dropout whose random numbers a kernel of the backend can draw."""

import keras


class Dropout(keras.layers.Dropout):
    """Dropout of single values.

    Args:
        rate: probability of a value to be set to zero, from 0 to below 1.

    Attributes:
        drop_kernel: optional function of inputs, rate and seed (a `keras.random.SeedGenerator`)
            that returns the outputs. With None, Keras computes them.

    Source: Srivastava et al., Dropout (2014).
    """

    def __init__(self, rate, **kwargs):
        super().__init__(rate, **kwargs)
        self.drop_kernel = None

    def call(self, inputs, training=False):
        """Sets values of `[...]` to zero in training, and divides the others by `1 - rate`."""
        if training and self.rate > 0 and self.drop_kernel is not None:
            return self.drop_kernel(inputs, self.rate, self.seed_generator)
        return super().call(inputs, training=training)
