"""The training step as one graph: loss, gradients summed over processes, and update."""

import fnmatch
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tools.errors import UserError
from tools.training.config import TrainingConfig
from tools.training.distributed import Processes
from tools.training.optimizer import Optimizer
from tools.training.precision import LossScale
from tools.training.task import Task


class StepResult(NamedTuple):
    """Result of a step. All values except `examples` are equal on all processes.

    The global batch has the rows of all processes and of all batches whose gradients are added.
    """

    loss: tf.Tensor  # mean over the global batch
    weight: tf.Tensor  # number of rows of the global batch in the loss
    gradient_norm: tf.Tensor  # before clipping
    finite: tf.Tensor  # whether the update was made
    metrics: Mapping[str, tf.Tensor]  # means over the global batch
    examples: tf.Tensor  # [B] losses of the rows of this process
    stop: tf.Tensor | bool = False  # whether any process has asked to stop


class TrainStep:
    """The compiled training step.

    If the loss or a gradient is not finite, the step changes no variable of the model.

    Args:
        task: model and loss.
        config: section `training` of the config.
        processes: processes that sum their gradients.
        optimizer: optimizer of the model's variables.
        loss_scale: factor of the loss.
    """

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        processes: Processes,
        optimizer: Optimizer,
        *,
        loss_scale: LossScale,
    ):
        self.task, self.processes = task, processes
        self.optimizer, self.loss_scale = optimizer, loss_scale
        self.clip_norm = config.optimizer.clip_norm
        self._accumulates = config.accumulate_steps > 1
        # Grappler takes longer to rewrite these large unrolled graphs than the rewriting saves.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        self._run = self._run_part = self._run_update = None

    def compile(self, batch_spec: Mapping[str, tf.TensorSpec]) -> None:
        """Sets the shapes and dtypes of batches, so that the step is traced only once."""
        rate_spec, stop_spec = tf.TensorSpec([], tf.float32), tf.TensorSpec([], tf.float32)
        # No loss needs AutoGraph, which takes as long as tracing.
        self._run = tf.function(
            self._step, input_signature=[batch_spec, rate_spec, stop_spec], autograph=False
        )
        if self._accumulates:
            vector = tf.TensorSpec([None], tf.float32)
            before = [tf.TensorSpec(v.shape, v.dtype) for v in self.optimizer.statistics]
            self._run_part = tf.function(
                self._part, input_signature=[batch_spec, vector], autograph=False
            )
            self._run_update = tf.function(
                self._update,
                input_signature=[vector, vector, before, [rate_spec, stop_spec]],
                autograph=False,
            )

    def __call__(
        self, batch: Mapping[str, tf.Tensor], learning_rate: float, stop: bool = False
    ) -> StepResult:
        """Runs a training step.

        Args:
            batch: batch of this process.
            learning_rate: learning rate of the step.
            stop: whether this process asks all processes to stop.
        """
        return self._run(batch, *_scalars(learning_rate, stop))

    def accumulate(
        self, batches: Sequence[Mapping[str, tf.Tensor]], learning_rate: float, stop: bool = False
    ) -> StepResult:
        """Runs a training step on the rows of several batches, one batch after the other.

        The processes sum their gradients once, and there is one update.

        Args:
            batches: batches of this process, as many as on every process.
            learning_rate: see `__call__`.
            stop: see `__call__`.
        """
        if not self._accumulates:
            (batch,) = batches
            return self(batch, learning_rate, stop)
        before = self._statistics()
        gradient, scalars, examples = tf.zeros([self.optimizer.num_parameters]), 0.0, []
        for batch in batches:
            gradient, sums, losses = self._run_part(batch, gradient)
            scalars += sums
            examples.append(losses)
        numbers = _scalars(learning_rate, stop)
        result = self._run_update(gradient, scalars, before, numbers)
        return result._replace(examples=tf.concat(examples, axis=0))

    def _step(self, batch, learning_rate, stop):
        before = self._statistics()
        gradient, scalars, examples = self._part(batch)
        result = self._update(gradient, scalars, before, [learning_rate, stop])
        return result._replace(examples=examples)

    def _statistics(self):
        return [tf.identity(v.value) for v in self.optimizer.statistics]

    def _part(self, batch, gradient=None):
        """Adds the gradient of the sum of a batch's losses to `gradient`, if it is given.

        Returns:
            The sum `[N]`, sums over the batch `[K]` (loss, weight and metrics), and losses `[B]`.
        """
        with tf.GradientTape() as tape:
            progress = self.optimizer.num_updates.read_value()
            sums = self.task.loss({**batch, "num_updates": progress}, training=True)
            # Scale the mean over the rows of this process (equally many on every process). The sum
            # over the rows could exceed the range of float16.
            factor = self.loss_scale.scale / tf.cast(tf.size(sums.examples), tf.float32)
            scaled = sums.loss_sum * factor
        own = self.optimizer.flatten(
            tape.gradient(scaled, [v.value for v in self.optimizer.variables])
        )
        self._metrics = sorted(sums.metrics)
        scalars = [sums.loss_sum, sums.weight, *(sums.metrics[name] for name in self._metrics)]
        own = own / factor
        gradient = own if gradient is None else gradient + own
        return gradient, tf.stack(scalars), tf.stop_gradient(sums.examples)

    def _update(self, gradient, scalars, before, numbers):
        """Updates the variables with the results of `_part`, summed over processes.

        If the loss or the gradient is not finite, restores the statistics `before` instead.
        """
        learning_rate, stop = numbers
        scalars = tf.concat([scalars, [stop]], axis=0)
        gradient, scalars = self.processes.sum([gradient, scalars])
        weight = tf.maximum(scalars[1], 1.0)
        # Few operations, because each one reads and writes all parameters.
        norm = tf.sqrt(2.0 * tf.nn.l2_loss(gradient)) / weight
        finite = tf.math.is_finite(norm) & tf.math.is_finite(scalars[0])
        factor = 1.0 / weight
        if self.clip_norm is not None:
            factor *= tf.minimum(1.0, self.clip_norm / tf.maximum(norm, 1e-12))
        gradient = gradient * factor

        def update():
            self.optimizer.apply(gradient, learning_rate)
            return tf.constant(0)

        def restore():
            for variable, value in zip(self.optimizer.statistics, before, strict=True):
                variable.value.assign(value)
            return tf.constant(0)

        tf.cond(finite, update, restore)
        self.loss_scale.update(finite)
        metrics = {name: scalars[2 + i] / weight for i, name in enumerate(self._metrics)}
        return StepResult(
            scalars[0] / weight,
            scalars[1],
            norm,
            finite,
            metrics,
            tf.zeros([0]),
            scalars[-1] > 0,
        )


def _scalars(*numbers: float) -> list[tf.Tensor]:
    return [tf.constant(float(number), tf.float32) for number in numbers]


def moving_statistics(model: keras.Model) -> list:
    """Returns the variables that a model updates without a gradient, such as batch norm statistics.

    Must be called before `freeze`, after which frozen weights are non-trainable too.
    """
    return [v for v in model.non_trainable_variables if "seed" not in v.path]


def freeze(model: keras.Model, patterns: Sequence[str]) -> list[str]:
    """Excludes layers from training. Frozen batch norm uses its moving statistics unchanged.

    Args:
        model: built model.
        patterns: shell patterns of the paths of layers or variables inside the model: `stem`,
            `coupled_[2-5]`, `*/normalization`, `class_token`. A frozen layer includes all layers
            inside it.

    Returns:
        Paths of the variables that this call has frozen.

    Raises:
        UserError: a pattern matches nothing, or nothing is left to train.
    """
    before = [v.path for v in model.trainable_variables]
    parts = [(part.path, part) for part in (*model._flatten_layers(), *model.variables)]
    named = [(path.partition("/")[2], part) for path, part in parts if path]
    for pattern in patterns:
        fitting = [part for path, part in named if path and fnmatch.fnmatchcase(path, pattern)]
        if not fitting:
            tops = dict.fromkeys(path.partition("/")[0] for path, _ in named if path)
            raise UserError.expected(
                f"patterns of layers in training.freeze: {', '.join(tops)} or layers inside them",
                pattern,
                "Correct training.freeze",
            )
        for part in fitting:
            part.trainable = False
    left = {v.path for v in model.trainable_variables}
    if not left:
        raise UserError.expected(
            "something left to train", "everything in training.freeze", "Shorten the list"
        )
    return [path for path in before if path not in left]


def seed_generators(model: keras.Model) -> list:
    """Returns the state variables of a model's random layers, such as dropout, in layer order."""
    states, seen = [], set()
    for layer in model._flatten_layers():
        generator = getattr(layer, "seed_generator", None)
        if generator is not None and id(generator) not in seen:
            seen.add(id(generator))
            states.append(generator.state)
    return states


def seed_model(model: keras.Model, seed: int, rank: int, counters: list[int] | None) -> None:
    """Seeds the random layers of a model from the seed of the run, the rank and the layer's number.

    Args:
        model: built model.
        seed: seed of the run.
        rank: rank of this process.
        counters: number of calls of each random layer so far, from a checkpoint; None starts at 0.

    Raises:
        UserError: the model of the checkpoint has another number of random layers.
    """
    states = seed_generators(model)
    counters = counters if counters is not None else [0] * len(states)
    if len(counters) != len(states):
        raise UserError.expected(
            f"a checkpoint of a model with {len(states)} random layers (dropout, drop path)",
            f"one with {len(counters)}",
            "Resume with the same dropout rates, or start a new run with --pretrained",
        )
    for index, (state, counter) in enumerate(zip(states, counters, strict=True)):
        state.assign([zlib.crc32(f"{seed}/{rank}/{index}".encode()), counter])
