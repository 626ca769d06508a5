"""Epochs of training data, for every kind of data."""

import functools
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Generic, TypeVar

import tensorflow as tf

from tools.training.task import Position, TrainData

logger = logging.getLogger(__name__)

Plan = TypeVar("Plan", bound=Sized)  # plan of an epoch; its length is the number of steps


class Epochs(Generic[Plan]):
    """The plans of all epochs from a position to the end of a run.

    Args:
        make_plan: function of an epoch's number and of the steps already run (`Position.done`) that
            returns the plan of the epoch.
        position: position in the data at which to start.
        num_epochs: number of epochs of the whole run.
        seed: seed of the run.
        settings: see `TrainData`.
    """

    def __init__(
        self,
        make_plan: Callable[[int, tuple[tuple[int, ...], ...]], Plan],
        position: Position,
        num_epochs: int,
        seed: int,
        *,
        settings: tuple[int, ...] = (),
    ):
        self._position, self._num_epochs, self._seed = position, num_epochs, seed
        self._settings = settings

        # Prefetching starts the next epoch while the loop is in this one, so keep two plans.
        @functools.lru_cache(maxsize=2)
        def plan(epoch: int) -> Plan:
            return make_plan(epoch, position.done if epoch == position.epoch else ())

        self.plan = plan

    def __iter__(self) -> Iterator[tuple[int, Plan]]:
        """Yields the number and the plan of each epoch."""
        for epoch in range(self._position.epoch, self._num_epochs):
            yield epoch, self.plan(epoch)

    def random_seed(self, epoch: int) -> int:
        """Returns the seed of an epoch's random numbers, computed from the seed of the run."""
        return zlib.crc32(f"{self._seed}/{epoch}".encode())

    def train_data(
        self, dataset: tf.data.Dataset, names: Callable[[Mapping], list[str]]
    ) -> TrainData:
        """Returns the training data for a dataset made from these plans.

        Args:
            dataset: batches, epoch after epoch.
            names: function of a batch that returns the names of its rows.
        """
        first = self._position.epoch
        later_epochs = self._num_epochs - first - 1
        remaining = len(self.plan(first)) if later_epochs >= 0 else 0
        if later_epochs > 0:
            remaining += later_epochs * len(self.plan(first + 1))

        def num_steps(epoch: int) -> int:
            return len(self.plan(epoch))

        return TrainData(dataset, num_steps, remaining, names, self._settings)


def row_names(
    key: str, paths: Sequence[str], names: Sequence[str]
) -> Callable[[Mapping[str, tf.Tensor]], list[str]]:
    """Returns a function that names the rows of a batch, and warns once about each dropped file.

    Args:
        key: key of the rows' indices in a batch; index -1 is a masked row. The batch also has the
            key `reason`, which is not empty for a dropped row.
        paths: paths of all files, for the warnings.
        names: names of all rows.
    """
    warned = set()

    def named(batch: Mapping[str, tf.Tensor]) -> list[str]:
        indices = batch[key].numpy()
        for index, reason in zip(indices, batch["reason"].numpy(), strict=True):
            if reason and index not in warned:
                warned.add(index)
                logger.warning("dropped %s: %s", paths[index], reason.decode())
        return [names[index] if index >= 0 else "masked" for index in indices]

    return named
