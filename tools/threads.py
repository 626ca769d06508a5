"""Results in order, computed by threads ahead of who takes them; a leaf for all libraries."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def is_open_file(item: object) -> bool:
    """Tells an open file; several may share a handle, as those of an archive do."""
    return hasattr(item, "read")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int, num_threads: int = 0
) -> Iterator[Result]:
    """Gives the results of a function in the order of its arguments, computed by threads.

    Open files are left to the caller's own thread, when it is their turn.

    Args:
        function: what it raises for an item is raised when it is the turn of that item.
        items: its arguments.
        ahead: how many results are prepared while one is used.
        num_threads: 0: one for each core.
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
