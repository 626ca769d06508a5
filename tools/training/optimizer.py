"""Optimizers that update all parameters as one flat vector.

Tracing a graph with a dozen operations for each of 500 variables takes longer than running it. With
all gradients in one vector, the sum over processes, unscaling, norm, clipping, update and average
are one operation each.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from tools.training.average import WeightAverage
from tools.training.config import OptimizerConfig
from tools.weights.assignment import check_tensors

# Variables with these words in their names have no weight decay; nor have vectors and scalars.
_WITHOUT_DECAY = ("bias", "embedding", "token")


def _is_undecayed(variable) -> bool:
    name = variable.path.split("/")[-1]
    return len(variable.shape) < 2 or any(word in name for word in _WITHOUT_DECAY)


class Optimizer:
    """Adam, AdamW or SGD with momentum, with an optional moving average of the weights.

    Args:
        config: section `training.optimizer` of the config.
        variables: trainable Keras variables of the model, float32.
        statistics: variables that training changes without a gradient, such as the moving
            statistics of batch norm.
        depths: depth of each variable's layer, counted from the input, for `layer_decay`.

    Attributes:
        num_updates: scalar int64 variable, number of updates so far.

    Source: Kingma and Ba, Adam (2015), algorithm 1 with the bias correction of section 2;
    Loshchilov and Hutter, Decoupled weight decay (2019), scaled by the learning rate; Sutskever et
    al., On the importance of initialization and momentum (2013), equations 1 and 2 as in PyTorch;
    Clark et al., ELECTRA (2020), appendix A, for learning rates by layer.
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
        self.num_updates = tf.Variable(0, dtype=tf.int64)
        self._average = None
        if config.average_decay:
            self._average = WeightAverage(config.average_decay, self._parameters, self.statistics)
        # Vectors with a value for each parameter; None if all values are equal. For the decay one
        # byte each is enough. Floats would take as much memory as the weights.
        decayed = np.array([not _is_undecayed(v) for v in self.variables], bool)
        decays = config.name != "adam" and config.weight_decay and decayed.any()
        self._is_decayed = self._spread(decayed) if decays else None
        self._scales = None
        if config.layer_decay is not None and depths:
            top = max(depths)
            scales = [config.layer_decay ** (top - depth) for depth in depths]
            self._scales = self._spread(np.float32(scales))

    @property
    def num_parameters(self) -> int:
        """Number of parameters N."""
        return sum(self._sizes)

    def flatten(self, tensors: Sequence) -> tf.Tensor:
        """Joins tensors with the shapes of the variables to one vector `[N]`.

        A tensor of None, as of a variable without a gradient, becomes zeros.
        """
        return tf.concat(
            [
                tf.zeros([size]) if tensor is None else tf.reshape(tensor, [size])
                for tensor, size in zip(tensors, self._sizes, strict=True)
            ],
            axis=0,
        )

    def apply(self, gradient: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """Updates the variables; may be called in a graph.

        Args:
            gradient: `[N]`, result of `flatten`.
            learning_rate: scalar.
        """
        config = self.config
        count = tf.cast(self.num_updates.assign_add(1), tf.float32)
        scales = 1.0 if self._scales is None else self._scales
        if config.name == "momentum":
            self._apply_momentum(gradient, learning_rate * scales)
        else:
            if self._is_decayed is not None:
                rates = learning_rate * scales * self._decays()
                self._parameters.assign(self._parameters * (1.0 - rates))
            # Reading the parameters here makes the update copy them.
            before = None if self._scales is None else tf.identity(self._parameters)
            self._apply_adam(gradient, learning_rate, count)
            if before is not None:
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
        if self._is_decayed is not None:
            gradient += self._decays() * self._parameters
        velocity = self._moments["first_moment"]
        velocity.assign(self.config.momentum * velocity + gradient)
        self._parameters.assign_sub(rates * velocity)

    @contextmanager
    def averaged(self):
        """Assigns the averages to the variables during the block; does nothing without averages."""
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
        """Whether there are averages."""
        return self._average is not None

    def read_variables(self) -> None:
        """Updates the internal vector after the variables were assigned from outside."""
        self._parameters.assign(self.flatten([v.value for v in self.variables]))

    @property
    def state_variables(self) -> list[tf.Variable]:
        """All variables of the optimizer, except the variables of the model."""
        average = [] if self._average is None else self._average.variables
        return [*self._moments.values(), self.num_updates, *average]

    @property
    def average_statistics(self) -> list[tf.Variable]:
        """Averages of the statistics, which must be averaged over processes before saving."""
        return [] if self._average is None else self._average.statistics

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns the arrays for a checkpoint, in the groups `optimizer` and, if any, `average`."""
        groups = {"optimizer": {"num_updates": self.num_updates.numpy()}}
        for name, vector in self._moments.items():
            groups["optimizer"] |= self._split(vector, f"{name}/")
        if self._average is not None:
            statistics = zip(self.statistics, self._average.statistics, strict=True)
            groups["average"] = self._split(self._average.vector, "")
            groups["average"] |= {v.path: average.numpy() for v, average in statistics}
        return groups

    def load_state(self, groups: Mapping[str, Mapping[str, np.ndarray]], what: str) -> None:
        """Restores the result of `state`. Without averages in it, they start at the weights.

        Args:
            groups: arrays by group and name.
            what: where the arrays come from, for the message.

        Raises:
            UserError: names or shapes differ from those of the model.
        """
        slots = groups["optimizer"]
        expected = {"num_updates": ()}
        for name in self._moments:
            expected |= self._expected(f"{name}/")
        check_tensors(expected, slots, what)
        self.read_variables()
        self.num_updates.assign(int(slots["num_updates"]))
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

    def _decays(self) -> tf.Tensor:
        """Returns the weight decay of each parameter, `[N]`."""
        return self.config.weight_decay * tf.cast(self._is_decayed, tf.float32)

    def _spread(self, values: np.ndarray) -> tf.Tensor:
        """Expands one value per variable to one per parameter. Computed once with NumPy."""
        return tf.constant(np.repeat(values, self._sizes))

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
