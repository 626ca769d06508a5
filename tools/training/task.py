"""What a model family brings to the training loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import keras
import tensorflow as tf


class LossSums(NamedTuple):
    """A loss as sums over a batch, divided once by the weight of all processes' batches.

    Attributes:
        loss_sum: scalar float32.
        weight: scalar float32, what the sum is divided by (utterances, images).
        examples: `[B]` losses of the single rows, for naming the ones that are not finite.
        metrics: scalar sums, reported divided by the weight.
    """

    loss_sum: tf.Tensor
    weight: tf.Tensor
    examples: tf.Tensor
    metrics: Mapping[str, tf.Tensor]


class Shard(NamedTuple):
    """A process's part of every global batch."""

    rank: int
    size: int
    batch_size: int

    @property
    def global_batch_size(self) -> int:
        """Rows of all processes together."""
        return self.size * self.batch_size


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands in its data, independent of the number of processes.

    Attributes:
        epoch: from 0.
        done: `(global_batch_size, num_steps)` of what was already run of this epoch, in order.
    """

    epoch: int = 0
    done: tuple[tuple[int, int], ...] = ()

    def advanced(self, global_batch_size: int) -> "Position":
        """The position one step later in the same epoch."""
        if self.done and self.done[-1][0] == global_batch_size:
            last = (global_batch_size, self.done[-1][1] + 1)
            return Position(self.epoch, (*self.done[:-1], last))
        return Position(self.epoch, (*self.done, (global_batch_size, 1)))


class TrainData(NamedTuple):
    """A process's training batches from a position to the end of the last epoch.

    Attributes:
        dataset: batches, dictionaries of tensors, epoch after epoch.
        num_steps: steps of an epoch, or of what is left of the first one.
        remaining_steps: steps of all these epochs, as far as can be told in advance.
        names: names of a batch's rows, for messages.
    """

    dataset: tf.data.Dataset
    num_steps: Callable[[int], int]
    remaining_steps: int
    names: Callable[[Mapping[str, tf.Tensor]], list[str]]


class Task(Protocol):
    """A model with its data, loss and evaluators.

    Attributes:
        model: built.
        assets: text files that belong to every checkpoint (configuration, vocabulary), by name.
        evaluators: by name, functions `() -> {metric: value}` that every process calls together.
        report: lines about the data, for the log.
        data_digest: tells training sets apart; see `tools.training.resuming`.
    """

    model: keras.Model
    assets: Mapping[str, str]
    evaluators: Mapping[str, Callable[[], Mapping[str, float]]]
    report: list[str]
    data_digest: str

    def train_data(self, shard: Shard, position: Position, num_epochs: int) -> TrainData:
        """Gives the batches of one process."""

    def layer_depth(self, path: str) -> int:
        """Counts the layers below a variable, from 0 at the input, for rates that differ by layer.

        Args:
            path: of a variable of the model.
        """

    def loss(self, batch: Mapping[str, tf.Tensor], training: bool) -> LossSums:
        """Computes the loss of a batch of one process; called in a graph."""
