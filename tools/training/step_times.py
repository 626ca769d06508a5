"""Mean time of a training step, as the original page's `summary/summary.json` states it."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

_KEPT, _WARMUP, _LAST = 300, 10, 40


class StepTimes:
    """Measures training steps, with the wait for their data.

    Source: the callback TimeHistoryRecord of the original: of 300 steps it leaves out the first
    10, of up to 40 the first half, otherwise all but the last 40.
    """

    def __init__(self):
        self.num_steps, self._seconds = 0, deque(maxlen=_KEPT)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measures the block as one step."""
        start = time.perf_counter()
        yield
        self.add(time.perf_counter() - start)

    def add(self, seconds: float) -> None:
        """Adds the time of a step in seconds."""
        self.num_steps += 1
        self._seconds.append(seconds)

    def summary(self, global_batch_size: int) -> dict[str, dict[str, float]]:
        """Returns the content of the file.

        Args:
            global_batch_size: rows of a step of all processes together.

        Returns:
            `overall_stats` with `batch_size`, `throughput_mean` in rows per second and `e2e` in
            seconds per step. Without a step, the two are 0.
        """
        count, counted = self.num_steps, list(self._seconds)
        if count == _KEPT:
            counted = counted[_WARMUP:]
        else:
            counted = counted[count // 2 :] if count <= _LAST else counted[-_LAST:]
        seconds = sum(counted) / len(counted) if counted else 0.0
        throughput = global_batch_size / seconds if seconds else 0.0
        stats = {"batch_size": global_batch_size, "throughput_mean": throughput, "e2e": seconds}
        return {"overall_stats": stats}
