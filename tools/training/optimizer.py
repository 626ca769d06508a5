"""Adam on one flat vector of all parameters, and the moving average of the weights.

A graph with a dozen operations for each of 500 variables takes longer to trace than to run. Here
the gradients are one vector, so the sum over processes, unscaling, norm, clipping, Adam and the
average are one operation each, whatever the model.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from tools.training.checkpoint import check_arrays
from tools.training.config import OptimizerConfig

_WITHOUT_DECAY = ("bias", "gamma", "beta", "embedding")


class Optimizer:
    """Adam or AdamW with an optional exponential moving average of the weights.

    The average's decay grows with the number of updates, `min(decay, (1 + n) / (10 + n))`, so that
    it does not hold on to the initial weights.

    Args:
        config: the section `training.optimizer`.
        variables: the model's trainable Keras variables, float32.

    Source: Kingma and Ba, Adam (2015), algorithm 1 with the bias correction of section 2;
    Loshchilov and Hutter, Decoupled weight decay (2019), scaled by the learning rate; the average's
    warm-up of tf.train.ExponentialMovingAverage 2.16.
    """

    def __init__(self, config: OptimizerConfig, variables: Sequence):
        self.config = config
        self.variables = list(variables)
        self._shapes = [tuple(v.shape) for v in self.variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._parameters = tf.Variable(self.flatten([v.value for v in self.variables]))
        self._first_moment = tf.Variable(tf.zeros_like(self._parameters))
        self._second_moment = tf.Variable(tf.zeros_like(self._parameters))
        self._num_updates = tf.Variable(0, dtype=tf.int64)
        self._average = tf.Variable(self._parameters) if config.average_decay else None
        decays = config.weight_decay if config.name == "adamw" else 0.0
        self._decays = [
            0.0 if any(word in v.path.split("/")[-1] for word in _WITHOUT_DECAY) else decays
            for v in self.variables
        ]

    def flatten(self, tensors: Sequence) -> tf.Tensor:
        """Joins tensors shaped like the variables (None: zeros) to one vector."""
        return tf.concat(
            [
                tf.zeros([size]) if tensor is None else tf.reshape(tensor, [size])
                for tensor, size in zip(tensors, self._sizes, strict=True)
            ],
            axis=0,
        )

    def apply(self, gradient: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """Makes one update; works in a graph.

        Args:
            gradient: `[N]`, from `flatten`.
            learning_rate: scalar.
        """
        config = self.config
        count = tf.cast(self._num_updates.assign_add(1), tf.float32)
        if any(self._decays):
            factor = tf.repeat(1.0 - learning_rate * tf.constant(self._decays), self._sizes)
            self._parameters.assign(self._parameters * factor)
        tf.raw_ops.ResourceApplyAdam(
            var=self._parameters.handle,
            m=self._first_moment.handle,
            v=self._second_moment.handle,
            beta1_power=tf.pow(config.beta_1, count),
            beta2_power=tf.pow(config.beta_2, count),
            lr=learning_rate,
            beta1=config.beta_1,
            beta2=config.beta_2,
            epsilon=config.epsilon,
            grad=gradient,
        )
        if self._average is not None:
            rest = 1.0 - tf.minimum(config.average_decay, (1.0 + count) / (10.0 + count))
            self._average.assign_sub(rest * (self._average - self._parameters))
        self._write(self._parameters)

    @contextmanager
    def averaged(self):
        """Puts the averages, where there are some, in the variables' place for a while."""
        if self._average is not None:
            self._write(self._average)
        try:
            yield
        finally:
            self._write(self._parameters)

    def read_variables(self) -> None:
        """Takes over variables that were assigned from outside."""
        self._parameters.assign(self.flatten([v.value for v in self.variables]))

    @property
    def state_variables(self) -> list[tf.Variable]:
        """Everything that is not in the model itself."""
        average = [] if self._average is None else [self._average]
        return [self._first_moment, self._second_moment, self._num_updates, *average]

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of a checkpoint: groups `optimizer` and, with an average, `average`."""
        moments = {"first_moment": self._first_moment, "second_moment": self._second_moment}
        groups = {"optimizer": {"num_updates": self._num_updates.numpy()}}
        for name, vector in moments.items():
            groups["optimizer"] |= self._split(vector, f"{name}/")
        if self._average is not None:
            groups["average"] = self._split(self._average, "")
        return groups

    def load_state(self, groups: Mapping[str, Mapping[str, np.ndarray]], what: str) -> None:
        """Takes over `state()`; a checkpoint without averages starts them at its weights."""
        slots = groups["optimizer"]
        expected = {"num_updates": ()}
        for prefix in ("first_moment/", "second_moment/"):
            expected |= self._expected(prefix)
        check_arrays(expected, slots, what)
        self.read_variables()
        self._num_updates.assign(int(slots["num_updates"]))
        self._first_moment.assign(self._join(slots, "first_moment/"))
        self._second_moment.assign(self._join(slots, "second_moment/"))
        if self._average is not None:
            self._average.assign(self._parameters)
            if groups.get("average"):
                check_arrays(self._expected(""), groups["average"], what)
                self._average.assign(self._join(groups["average"], ""))

    def _write(self, vector) -> None:
        pieces = tf.split(tf.convert_to_tensor(vector), self._sizes)
        for variable, piece, shape in zip(self.variables, pieces, self._shapes, strict=True):
            variable.value.assign(tf.reshape(piece, shape))

    def _expected(self, prefix: str) -> dict[str, tuple[int, ...]]:
        return {
            prefix + v.path: shape for v, shape in zip(self.variables, self._shapes, strict=True)
        }

    def _split(self, vector, prefix: str) -> dict[str, np.ndarray]:
        pieces = np.split(vector.numpy(), np.cumsum(self._sizes)[:-1])
        shaped = zip(self._expected(prefix).items(), pieces, strict=True)
        return {name: piece.reshape(shape) for (name, shape), piece in shaped}

    def _join(self, arrays: Mapping[str, np.ndarray], prefix: str) -> np.ndarray:
        return np.concatenate([arrays[name].ravel() for name in self._expected(prefix)])
