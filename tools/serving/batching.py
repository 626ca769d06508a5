"""Dynamic batching: collects inputs of several requests and runs them together."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


class QueueFull(Exception):
    """The queue has no room for another input."""


class DeadlineExceeded(Exception):
    """An input waited in the queue until its deadline."""


class Closed(Exception):
    """The batcher accepts no inputs any more."""


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """Options of a batcher.

    Attributes:
        max_batch_size: largest number of inputs in a batch.
        batch_timeout_ms: longest time that the first input of a batch waits for others. While a
            batch runs, the inputs of the next one collect without this wait, so that batches form
            under load with 0, too.
        max_enqueued: largest number of inputs in the queue, without those that run.
        bucket_ratio: an input joins a batch only if its size is at most this many times the
            smallest size in the batch.
    """

    max_batch_size: int = 16
    batch_timeout_ms: float = 0.0
    max_enqueued: int = 256
    bucket_ratio: float = 2.0


class Batch(NamedTuple):
    """What is reported about a batch that has run.

    Attributes:
        size: number of inputs.
        waited_seconds: time in the queue of each input.
        run_seconds: time of the run.
    """

    size: int
    waited_seconds: tuple[float, ...]
    run_seconds: float


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    size: float
    key: Hashable
    deadline: float
    arrived: float
    future: "Future[Result]" = field(default_factory=Future)


class Batcher(Generic[Item, Result]):
    """Runs inputs of several threads in batches, in a thread of its own.

    If the run of a batch fails, its inputs run again one by one, so that a bad input fails alone.

    Args:
        run: function that returns the results of a batch, in order.
        options: sizes and times.
        key: function of an input; only inputs with equal keys run together.
        report: called with each batch that has run.
        clock: function that returns the time in seconds.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        options: BatchingOptions = BatchingOptions(),
        *,
        key: Callable[[Item], Hashable] = lambda item: None,
        report: Callable[[Batch], None] = lambda batch: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._run, self._options, self._key = run, options, key
        self._report, self._clock = report, clock
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def num_enqueued(self) -> int:
        """Number of inputs in the queue."""
        return len(self._queue)

    def submit(
        self, item: Item, *, size: float = 1.0, timeout_seconds: float = math.inf
    ) -> "Future[Result]":
        """Puts an input into the queue.

        Args:
            item: the input.
            size: its size, above 0, for `bucket_ratio`; for a sound its length.
            timeout_seconds: longest time in the queue.

        Returns:
            The future of the result. If it is cancelled, the input does not run. It fails with
            `DeadlineExceeded` after the timeout, and with the exception of `run`.

        Raises:
            QueueFull: the queue is full.
            Closed: the batcher is closed.
        """
        return self.submit_all([(item, size)], timeout_seconds=timeout_seconds)[0]

    def submit_all(
        self, items: Sequence[tuple[Item, float]], *, timeout_seconds: float = math.inf
    ) -> "list[Future[Result]]":
        """Puts several inputs into the queue, or none of them; see `submit`.

        Args:
            items: inputs with their sizes.
            timeout_seconds: longest time in the queue.

        Raises:
            QueueFull: the queue has no room for all of them.
            Closed: the batcher is closed.
        """
        now = self._clock()
        entries = [
            _Waiting(item, size, self._key(item), now + timeout_seconds, now)
            for item, size in items
        ]
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._queue) + len(entries) > self._options.max_enqueued:
                raise QueueFull
            self._queue.extend(entries)
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def close(self) -> None:
        """Runs the inputs in the queue, and accepts no others. Waits until they have run."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._answer(batch)

    def _next(self) -> "list[_Waiting[Item, Result]]":
        """Returns the next batch; an empty list after the end."""
        options = self._options
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return []
                late = self._queue[0].arrived + options.batch_timeout_ms / 1000
                while not self._closed and len(self._queue) < options.max_batch_size:
                    left = late - self._clock()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                if batch := self._take():
                    return batch

    def _take(self) -> "list[_Waiting[Item, Result]]":
        """Removes a batch from the queue: the oldest input, and others that may run with it."""
        now, batch, left = self._clock(), [], []
        low, high = math.inf, 0.0
        for entry in self._queue:
            if entry.deadline <= now:
                if entry.future.set_running_or_notify_cancel():
                    entry.future.set_exception(DeadlineExceeded())
                continue
            smallest, largest = min(low, entry.size), max(high, entry.size)
            fits = largest <= smallest * self._options.bucket_ratio
            fits = fits and (not batch or entry.key == batch[0].key)
            if len(batch) == self._options.max_batch_size or not fits:
                left.append(entry)
            elif entry.future.set_running_or_notify_cancel():
                low, high = smallest, largest
                batch.append(entry)
        self._queue = deque(left)
        return batch

    def _answer(self, batch: "list[_Waiting[Item, Result]]") -> None:
        started, failure = self._clock(), None
        try:
            results = self._run([entry.item for entry in batch])
            answers = list(zip(batch, results, strict=True))
        except Exception as error:  # of the caller's function: the callers get it
            if len(batch) > 1:
                for entry in batch:
                    self._answer([entry])
                return
            answers, failure = [], error
        seconds = self._clock() - started
        waited = tuple(started - entry.arrived for entry in batch)
        # Before the answers, so that a client that has one finds its batch in the metrics.
        self._report(Batch(len(batch), waited, seconds))
        if failure is not None:
            batch[0].future.set_exception(failure)
        for entry, result in answers:
            entry.future.set_result(result)
