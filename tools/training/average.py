"""Exponential moving average (EMA) of the weights."""

from collections.abc import Sequence

import tensorflow as tf


class WeightAverage:
    """Exponential moving average of the parameters and of the batch norm statistics.

    The decay grows with the number of updates n, `min(decay, (1 + n) / (10 + n))`, so that the
    average soon forgets the initial weights. Batch norm statistics are averaged as well, because
    the latest statistics do not fit averaged weights.

    Args:
        decay: decay of the average, in [0, 1).
        parameters: `[N]` initial parameters.
        statistics: Keras variables that training changes without a gradient, such as the moving
            statistics of batch norm.

    Attributes:
        vector: `[N]`, average of the parameters.
        statistics: averages of the statistics, in the same order.

    Source: the warm-up of tf.train.ExponentialMovingAverage in TensorFlow 2.16.
    """

    def __init__(self, decay: float, parameters: tf.Variable, statistics: Sequence):
        self._decay, self._latest = decay, list(statistics)
        self.vector = tf.Variable(parameters)
        self.statistics = [tf.Variable(v.value) for v in self._latest]

    @property
    def variables(self) -> list[tf.Variable]:
        """All averages, as variables."""
        return [self.vector, *self.statistics]

    def update(self, parameters: tf.Variable, count: tf.Tensor) -> None:
        """Adds the parameters after an update to the average; may be called in a graph.

        Args:
            parameters: `[N]`.
            count: number of updates so far, including this one.
        """
        rest = 1.0 - tf.minimum(self._decay, (1.0 + count) / (10.0 + count))
        self.vector.assign_sub(rest * (self.vector - parameters))
        for average, latest in zip(self.statistics, self._latest, strict=True):
            average.assign_sub(rest * (average - latest.value))
