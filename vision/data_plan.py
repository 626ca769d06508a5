"""Plan of an epoch: the images of each batch, the same on all processes."""

from typing import NamedTuple

import numpy as np

from tools.errors import UserError
from tools.training.task import Shard


class Rows(NamedTuple):
    """Rows of a batch, in order.

    Attributes:
        indices: `[N]` int64 indices of images in the data set.
        repetitions: `[N]` int64 numbers of the variants of these images in this epoch, from 0.
    """

    indices: np.ndarray
    repetitions: np.ndarray


class EpochPlan:
    """The remaining batches of one epoch, the same on all processes.

    The order of the images is a function of the seed and the epoch. With repeated augmentation,
    the variants of an image follow each other, so that they are in the same batch, and the epoch
    uses only as many images as fit into its usual length. The last batch is filled with further
    variants of the first images, because batch norm would include empty rows in its moments.

    Args:
        num_images: number of images in the data set.
        repeats: number of variants of an image in an epoch.
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        global_batch_size: rows of a batch on all processes together.
        done: `(global_batch_size, num_steps)` of the completed parts of this epoch, in order. A
            resumed run continues after them, also with another batch size.

    Raises:
        UserError: `done` covers more than the whole epoch.

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
                f"at most {num_images} images completed in epoch {epoch}",
                f"{self._start} images completed before the run was stopped",
                "Resume with the data that the run was started with",
            )

    def __len__(self) -> int:
        """Returns the number of remaining steps."""
        return -(-max(0, len(self._order) - self._start) // self._size)

    def first_row(self, step: int) -> int:
        """Returns the position in the epoch of the first row of a step."""
        return self._start + step * self._size

    def rows(self, step: int) -> Rows:
        """Returns the rows of the global batch of a step."""
        places = self.first_row(step) + np.arange(self._size)
        rounds, places = np.divmod(places, len(self._order))
        # The positions of an image follow each other and start at a multiple of `repeats`.
        return Rows(self._order[places], places % self._repeats + self._repeats * rounds)


def rank_places(shard: Shard) -> np.ndarray:
    """Returns the rows of a global batch that a process gets.

    Mixing pairs row i with row `-1 - i` of the global batch. Both rows go to the same process, to
    positions j and `-1 - j` of its batch, so that the pairs do not depend on the number of
    processes.

    Args:
        shard: shard of the process.

    Returns:
        `[batch_size]` int64 row numbers.
    """
    rank, size, rows = shard
    front = rank + size * np.arange(rows // 2)
    middle = [rank + size * (rows // 2)] if rows % 2 else []
    return np.concatenate([front, middle, shard.global_batch_size - 1 - front[::-1]]).astype(
        np.int64
    )
