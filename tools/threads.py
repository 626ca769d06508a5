"""Threads: results that are computed ahead of the consumer, and functions that run together."""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import count, islice
from typing import TypeVar

from tools.errors import UserError

Item, Result = TypeVar("Item"), TypeVar("Result")


def is_open_file(item: object) -> bool:
    """Returns whether an item is an open file. Files of one archive may share a file handle."""
    return hasattr(item, "read")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int, num_threads: int = 0
) -> Iterator[Result]:
    """Yields the results of a function in the order of its arguments, computed by threads.

    Open files are processed in the caller's thread when their turn comes.

    Args:
        function: called with each item. Its exceptions are raised at the item's turn.
        items: arguments of the function.
        ahead: number of results that are computed in advance.
        num_threads: number of threads; 0 uses one for each core.
    """
    pending: deque[Callable[[], Result]] = deque()
    rest = iter(items)
    pool = ThreadPoolExecutor(num_threads or os.cpu_count(), thread_name_prefix="decode")
    try:
        while True:
            for item in islice(rest, ahead + 1 - len(pending)):
                own = is_open_file(item)
                job = partial(function, item) if own else pool.submit(function, item).result
                pending.append(job)
            if not pending:
                return
            yield pending.popleft()()
    finally:
        pool.shutdown(cancel_futures=True)


@functools.cache
def _workers() -> ThreadPoolExecutor:
    """Returns the threads of `run_together`, which wait for work until the process ends."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="together")


os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork


def run_together(jobs: Sequence[Callable[[], object]]) -> None:
    """Runs functions at the same time, the last one in the caller's thread.

    Args:
        jobs: at least one function. They must release Python's global lock most of the time. If
            some of them raise an exception, one of the exceptions is raised when all have ended.
    """
    *others, last = jobs
    running = [_workers().submit(job) for job in others]
    try:
        last()
        # Jobs that wait for a thread run here, so that a thread which holds a lock that other jobs
        # wait for can end.
        for job, one in zip(others, running, strict=True):
            if one.cancel():
                job()
    finally:
        begun = [one for one in running if not one.cancel()]
        wait(begun)
    for one in begun:
        one.result()


def of_list(what: str, results: Iterator[Result]) -> Iterator[Result]:
    """Yields the results for the elements of a list; adds the element's number to a `UserError`.

    Args:
        what: noun for one element, such as "Sound", for the message.
        results: results in the order of the list.

    Raises:
        UserError: as raised for an element; the message starts with "Sound 3 of the list: ".
    """
    for number in count(1):
        try:
            result = next(results)
        except StopIteration:
            return
        except UserError as error:
            error.args = (f"{what} {number} of the list: {error}",)
            raise
        yield result
