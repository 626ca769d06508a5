"""Interface between a model family and the training loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import keras
import tensorflow as tf


class LossSums(NamedTuple):
    """Sums of the loss over a batch. The step divides them by the weight of the global batch.

    Attributes:
        loss_sum: scalar float32, sum of the loss.
        weight: scalar float32, number of rows in the sum (utterances or images).
        examples: `[B]` loss of each row, to name rows whose loss is not finite.
        metrics: scalar sums by name; the step divides them by the weight as well.
    """

    loss_sum: tf.Tensor
    weight: tf.Tensor
    examples: tf.Tensor
    metrics: Mapping[str, tf.Tensor]


class Shard(NamedTuple):
    """The part of every global batch that belongs to a process.

    Attributes:
        rank: number of the process, from 0.
        size: number of processes.
        batch_size: rows of each process.
    """

    rank: int
    size: int
    batch_size: int

    @property
    def global_batch_size(self) -> int:
        """Number of rows of all processes together."""
        return self.size * self.batch_size


@dataclass(frozen=True, slots=True)
class Position:
    """Position of a run in its training data, independent of the number of processes.

    Attributes:
        epoch: number of the epoch, from 0.
        done: `(global_batch_size, num_steps)` of the batches of this epoch that were already
            trained on, in order. There are several entries if the batch size has changed. If more
            settings determine the batches, they follow the two numbers.
    """

    epoch: int = 0
    done: tuple[tuple[int, ...], ...] = ()

    @property
    def num_batches(self) -> int:
        """Number of batches of this epoch that were already trained on."""
        return sum(num_steps for _, num_steps, *_ in self.done)

    def advanced(
        self, global_batch_size: int, num_steps: int = 1, settings: tuple[int, ...] = ()
    ) -> "Position":
        """Returns the position `num_steps` batches later in the same epoch.

        Args:
            global_batch_size: largest number of rows of the batches, over all processes.
            num_steps: number of batches.
            settings: see `TrainData`.
        """
        before = self.done
        if before and (before[-1][0], *before[-1][2:]) == (global_batch_size, *settings):
            num_steps += before[-1][1]
            before = before[:-1]
        return Position(self.epoch, (*before, (global_batch_size, num_steps, *settings)))


def group_sizes(num_batches: int, accumulate_steps: int) -> list[int]:
    """Returns the number of batches of each update, given the number of batches of an epoch."""
    full, rest = divmod(num_batches, accumulate_steps)
    return [accumulate_steps] * full + [rest] * (rest > 0)


class TrainData(NamedTuple):
    """Training batches of a process, from a position to the end of the last epoch.

    Attributes:
        dataset: batches as dictionaries of tensors, epoch after epoch.
        num_steps: function of an epoch that returns its number of batches, without those already
            trained on.
        remaining_steps: estimated number of batches of all these epochs.
        names: function of a batch that returns the names of its rows, for messages.
        settings: numbers besides the global batch size that determine the batches of an epoch;
            `Position` records them.
    """

    dataset: tf.data.Dataset
    num_steps: Callable[[int], int]
    remaining_steps: int
    names: Callable[[Mapping[str, tf.Tensor]], list[str]]
    settings: tuple[int, ...] = ()


class Task(Protocol):
    """A model with its data, loss and evaluators.

    Attributes:
        model: built model.
        assets: text files of every checkpoint (config, vocabulary) by name.
        evaluators: functions `() -> {metric: value}` by name; called on all processes together.
        report: lines about the data, for the log.
        data_digest: hash of the training set; see `tools.training.resuming`.
        blocks: repeated layers of the model; see `tools.training.rematerialize`.
    """

    model: keras.Model
    assets: Mapping[str, str]
    evaluators: Mapping[str, Callable[[], Mapping[str, float]]]
    report: list[str]
    data_digest: str
    blocks: Sequence[keras.Layer]

    def train_data(self, shard: Shard, position: Position, num_epochs: int) -> TrainData:
        """Returns the training batches of one process.

        Args:
            shard: part of every global batch that belongs to the process.
            position: position in the data at which to start.
            num_epochs: number of epochs of the whole run.
        """

    def layer_depth(self, path: str) -> int:
        """Returns the depth of a variable's layer, 0 at the input, for `layer_decay`.

        Args:
            path: path of a variable of the model.
        """

    def loss(self, batch: Mapping[str, tf.Tensor], training: bool) -> LossSums:
        """Computes the loss of a batch of one process; called in a graph.

        Args:
            batch: tensors by name, as in `TrainData.dataset`, and `num_updates`, the scalar int64
                number of updates so far.
            training: whether to use training behavior, such as dropout.
        """
