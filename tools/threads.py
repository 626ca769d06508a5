"""Prefetching: computes results in threads ahead of the consumer, and returns them in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
