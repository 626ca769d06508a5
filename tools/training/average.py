"""The exponential moving average of the weights, beside the optimizer that moves them."""

from collections.abc import Sequence

import tensorflow as tf


class WeightAverage:
    """Averages a vector of parameters and the statistics that belong to them.

    The decay grows with the number of updates, `min(decay, (1 + n) / (10 + n))`, so that the
    average does not hold on to the initial weights. Batch norm's statistics are averaged along:
    those of the latest weights do not fit averaged ones.

    Args:
        decay: of the average, in [0, 1).
        parameters: `[N]`, as they are at first.
        statistics: Keras variables that training moves by other ways than the gradient.

    Attributes:
        vector: `[N]`, the average of the parameters.
        statistics: the averages of the statistics, in their order.

    Source: the warm-up of tf.train.ExponentialMovingAverage 2.16.
    """

    def __init__(self, decay: float, parameters: tf.Variable, statistics: Sequence):
        self._decay, self._latest = decay, list(statistics)
        self.vector = tf.Variable(parameters)
        self.statistics = [tf.Variable(v.value) for v in self._latest]

    @property
    def variables(self) -> list[tf.Variable]:
        """All that it holds."""
        return [self.vector, *self.statistics]

    def update(self, parameters: tf.Variable, count: tf.Tensor) -> None:
        """Takes in the parameters after an update; works in a graph.

        Args:
            parameters: `[N]`.
            count: updates so far, this one included.
        """
        rest = 1.0 - tf.minimum(self._decay, (1.0 + count) / (10.0 + count))
        self.vector.assign_sub(rest * (self.vector - parameters))
        for average, latest in zip(self.statistics, self._latest, strict=True):
            average.assign_sub(rest * (average - latest.value))
