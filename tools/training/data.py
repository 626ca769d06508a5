"""The epochs of a run's training data, the same for every kind of data."""

import functools
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Generic, TypeVar

import tensorflow as tf

from tools.training.task import Position, TrainData

logger = logging.getLogger(__name__)

Plan = TypeVar("Plan", bound=Sized)  # of an epoch; its length is the number of steps


class Epochs(Generic[Plan]):
    """The plans of the epochs from a position to the end of a run.

    Args:
        make_plan: of an epoch's number and what was already run of it, as `Position.done` has it.
        position: where to begin.
        num_epochs: where to end.
        seed: of the run.
    """

    def __init__(
        self,
        make_plan: Callable[[int, tuple[tuple[int, int], ...]], Plan],
        position: Position,
        num_epochs: int,
        seed: int,
    ):
        self._position, self._num_epochs, self._seed = position, num_epochs, seed

        # Pre-fetching reaches into the next epoch while the loop is still in this one: two plans.
        @functools.lru_cache(maxsize=2)
        def plan(epoch: int) -> Plan:
            return make_plan(epoch, position.done if epoch == position.epoch else ())

        self.plan = plan

    def __iter__(self) -> Iterator[tuple[int, Plan]]:
        """Gives the number of each epoch with its plan."""
        for epoch in range(self._position.epoch, self._num_epochs):
            yield epoch, self.plan(epoch)

    def random_seed(self, epoch: int) -> int:
        """Gives the seed of an epoch's random numbers, a function of the run's seed."""
        return zlib.crc32(f"{self._seed}/{epoch}".encode())

    def train_data(
        self, dataset: tf.data.Dataset, names: Callable[[Mapping], list[str]]
    ) -> TrainData:
        """Describes the batches that were made by these plans.

        Args:
            dataset: the batches, epoch after epoch.
            names: names of a batch's rows.
        """
        first = self._position.epoch
        later_epochs = self._num_epochs - first - 1
        remaining = len(self.plan(first)) if later_epochs >= 0 else 0
        if later_epochs > 0:
            remaining += later_epochs * len(self.plan(first + 1))
        return TrainData(dataset, lambda epoch: len(self.plan(epoch)), remaining, names)


def row_names(
    key: str, paths: Sequence[str], names: Sequence[str]
) -> Callable[[Mapping[str, tf.Tensor]], list[str]]:
    """Makes a function that names a batch's rows and warns once of each file that was dropped.

    Args:
        key: of the rows' indices in a batch, -1 for a masked row; `reason` has why it was dropped.
        paths: of the files, for warnings.
        names: of the rows.
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
