"""Optimizers on one flat vector of all parameters.

A graph with a dozen operations for each of 500 variables takes longer to trace than to run. Here
the gradients are one vector, so the sum over processes, unscaling, norm, clipping, update and
average are one operation each, whatever the model.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from tools.training.average import WeightAverage
from tools.training.config import OptimizerConfig
from tools.weights.assignment import check_tensors

# In the name of a variable; vectors and scalars, whatever their name, are not decayed either.
_WITHOUT_DECAY = ("bias", "embedding", "token")


def _is_undecayed(variable) -> bool:
    name = variable.path.split("/")[-1]
    return len(variable.shape) < 2 or any(word in name for word in _WITHOUT_DECAY)


class Optimizer:
    """Adam, AdamW or momentum with an optional exponential moving average of the weights.

    Args:
        config: the section `training.optimizer`.
        variables: the model's trainable Keras variables, float32.
        statistics: variables that training moves by other ways than the gradient.
        depths: of each variable's layer, counted from the input, for `layer_decay`.

    Source: Kingma and Ba, Adam (2015), algorithm 1 with the bias correction of section 2;
    Loshchilov and Hutter, Decoupled weight decay (2019), scaled by the learning rate; Sutskever et
    al., On the importance of initialization and momentum (2013), equations 1 and 2 as PyTorch has
    them; Clark et al., ELECTRA (2020), appendix A, for rates by layer.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        variables: Sequence,
        statistics: Sequence = (),
        depths: Sequence[int] = (),
    ):
        self.config = config
        self.variables = list(variables)
        self.statistics = list(statistics)
        self._shapes = [tuple(v.shape) for v in self.variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._parameters = tf.Variable(self.flatten([v.value for v in self.variables]))
        self._moments = {"first_moment": tf.Variable(tf.zeros_like(self._parameters))}
        if config.name != "momentum":
            self._moments["second_moment"] = tf.Variable(tf.zeros_like(self._parameters))
        self._num_updates = tf.Variable(0, dtype=tf.int64)
        self._average = None
        if config.average_decay:
            self._average = WeightAverage(config.average_decay, self._parameters, self.statistics)
        decay = 0.0 if config.name == "adam" else config.weight_decay
        # Vectors of what differs by variable; None where nothing does.
        decays = [0.0 if _is_undecayed(v) else decay for v in self.variables]
        self._decays = self._spread(decays) if any(decays) else None
        self._scales = None
        if config.layer_decay is not None and depths:
            top = max(depths)
            self._scales = self._spread([config.layer_decay ** (top - depth) for depth in depths])

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
        scales = 1.0 if self._scales is None else self._scales
        if config.name == "momentum":
            self._apply_momentum(gradient, learning_rate * scales)
        else:
            if self._decays is not None:
                rates = learning_rate * scales * self._decays
                self._parameters.assign(self._parameters * (1.0 - rates))
            before = tf.identity(self._parameters)
            self._apply_adam(gradient, learning_rate, count)
            if self._scales is not None:
                self._parameters.assign(before + scales * (self._parameters - before))
        if self._average is not None:
            self._average.update(self._parameters, count)
        self._write(self._parameters)

    def _apply_adam(self, gradient, learning_rate, count):
        config = self.config
        tf.raw_ops.ResourceApplyAdam(
            var=self._parameters.handle,
            m=self._moments["first_moment"].handle,
            v=self._moments["second_moment"].handle,
            beta1_power=tf.pow(config.beta_1, count),
            beta2_power=tf.pow(config.beta_2, count),
            lr=learning_rate,
            beta1=config.beta_1,
            beta2=config.beta_2,
            epsilon=config.epsilon,
            grad=gradient,
        )

    def _apply_momentum(self, gradient, rates):
        if self._decays is not None:
            gradient += self._decays * self._parameters
        velocity = self._moments["first_moment"]
        velocity.assign(self.config.momentum * velocity + gradient)
        self._parameters.assign_sub(rates * velocity)

    @contextmanager
    def averaged(self):
        """Puts the averages, where there are some, in the variables' place for a while."""
        latest = [tf.identity(v.value) for v in self.statistics]
        if self._average is not None:
            self._write(self._average.vector)
            for v, average in zip(self.statistics, self._average.statistics, strict=True):
                v.value.assign(average)
        try:
            yield
        finally:
            self._write(self._parameters)
            for v, value in zip(self.statistics, latest, strict=True):
                v.value.assign(value)

    @property
    def averages(self) -> bool:
        """Whether `averaged` makes a difference."""
        return self._average is not None

    def read_variables(self) -> None:
        """Takes over variables that were assigned from outside."""
        self._parameters.assign(self.flatten([v.value for v in self.variables]))

    @property
    def state_variables(self) -> list[tf.Variable]:
        """Everything that is not in the model itself."""
        average = [] if self._average is None else self._average.variables
        return [*self._moments.values(), self._num_updates, *average]

    @property
    def average_statistics(self) -> list[tf.Variable]:
        """Those that processes which see other batches must agree on."""
        return [] if self._average is None else self._average.statistics

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of a checkpoint: groups `optimizer` and, with an average, `average`."""
        groups = {"optimizer": {"num_updates": self._num_updates.numpy()}}
        for name, vector in self._moments.items():
            groups["optimizer"] |= self._split(vector, f"{name}/")
        if self._average is not None:
            statistics = zip(self.statistics, self._average.statistics, strict=True)
            groups["average"] = self._split(self._average.vector, "")
            groups["average"] |= {v.path: average.numpy() for v, average in statistics}
        return groups

    def load_state(self, groups: Mapping[str, Mapping[str, np.ndarray]], what: str) -> None:
        """Takes over `state()`; a checkpoint without averages starts them at its weights."""
        slots = groups["optimizer"]
        expected = {"num_updates": ()}
        for name in self._moments:
            expected |= self._expected(f"{name}/")
        check_tensors(expected, slots, what)
        self.read_variables()
        self._num_updates.assign(int(slots["num_updates"]))
        for name, vector in self._moments.items():
            vector.assign(self._join(slots, f"{name}/"))
        if self._average is None:
            return
        self._average.vector.assign(self._parameters)
        statistics = dict(
            zip((v.path for v in self.statistics), self._average.statistics, strict=True)
        )
        values = {v.path: v.numpy() for v in self.statistics}
        if arrays := groups.get("average"):
            shapes = {path: tuple(average.shape) for path, average in statistics.items()}
            check_tensors(self._expected("") | shapes, arrays, what)
            self._average.vector.assign(self._join(arrays, ""))
            values = arrays
        for path, average in statistics.items():
            average.assign(values[path])

    def _write(self, vector) -> None:
        pieces = tf.split(tf.convert_to_tensor(vector), self._sizes)
        for variable, piece, shape in zip(self.variables, pieces, self._shapes, strict=True):
            variable.value.assign(tf.reshape(piece, shape))

    def _spread(self, numbers: Sequence[float]) -> tf.Tensor:
        """A number for each variable to one for each parameter, once: tf.repeat is slow."""
        return tf.constant(np.repeat(np.float32(numbers), self._sizes))

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
