"""The plan of an epoch: which images make which batch, the same on every process."""

from typing import NamedTuple

import numpy as np

from tools.errors import UserError
from tools.training.task import Shard


class Rows(NamedTuple):
    """Images of an epoch, in order.

    Attributes:
        indices: `[N]` int64 into the folder.
        repetitions: `[N]` int64, which variant of the image in this epoch.
    """

    indices: np.ndarray
    repetitions: np.ndarray


class EpochPlan:
    """The batches of one epoch that are still to run, the same on every process.

    The images come in an order of (seed, epoch). With repeated augmentation each of them comes
    several times in a row, so that its variants meet in one step, and the epoch ends when it is as
    long as without. The last batch is filled up with further variants of the first images: no row
    is empty, which batch normalization would see.

    Args:
        num_images: of the folder.
        repeats: variants of an image in an epoch.
        seed: of the run.
        epoch: from 0.
        global_batch_size: rows of all processes.
        done: `(global_batch_size, num_steps)` of what was already run, in order; a run that stopped
            inside the epoch goes on behind that, at whatever batch size.

    Source: Hoffer et al., Augment your batch (2019); DeiT @ee8893c, `RASampler`.
    """

    def __init__(
        self,
        num_images: int,
        repeats: int,
        seed: int,
        epoch: int,
        *,
        global_batch_size: int,
        done: tuple[tuple[int, int], ...] = (),
    ):
        order = np.random.default_rng((seed, epoch)).permutation(num_images)
        self._order = np.repeat(order[: -(-num_images // repeats)], repeats)[:num_images]
        self._repeats, self._size = repeats, global_batch_size
        self._start = sum(size * steps for size, steps in done)
        last = next((size for size, steps in reversed(done) if steps), 0)
        if last and self._start - last >= num_images:
            raise UserError.expected(
                f"at most {num_images} images to resume in epoch {epoch}",
                f"{self._start} already seen",
                "Resume with the data that the run was started with",
            )

    def __len__(self) -> int:
        """Number of steps."""
        return -(-max(0, len(self._order) - self._start) // self._size)

    def first_row(self, step: int) -> int:
        """Place of a step's first row in the epoch, which names the step at any batch size."""
        return self._start + step * self._size

    def rows(self, step: int) -> Rows:
        """The rows of a global batch."""
        places = self.first_row(step) + np.arange(self._size)
        rounds, places = np.divmod(places, len(self._order))
        # An image's places follow each other from a multiple of their number on.
        return Rows(self._order[places], places % self._repeats + self._repeats * rounds)


def rank_places(shard: Shard) -> np.ndarray:
    """Returns which rows of a global batch a process has.

    A row and the one as far from the other end are mixed with each other. They come to one process,
    as far from the ends of its own batch, so that any number of processes mixes the same pairs.

    Args:
        shard: of the process.

    Returns:
        `[batch_size]` int64.
    """
    rank, size, rows = shard
    front = rank + size * np.arange(rows // 2)
    middle = [rank + size * (rows // 2)] if rows % 2 else []
    return np.concatenate([front, middle, shard.global_batch_size - 1 - front[::-1]]).astype(
        np.int64
    )
