"""Calls of a model that are divided among threads."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import numpy as np

from tools.decoding.protocol import Call
from tools.threads import run_together

_LARGEST_CALL = 64  # rows in one call of a signature; conversions serve batches of 64
_WORTH = 4_000_000  # multiplications for which another thread is worth its start


def num_parts(multiplications: int, num_rows: int, threads: int) -> int:
    """Returns the number of parts of a call that are worth a thread.

    Args:
        multiplications: about the number of multiplications of the call.
        num_rows: rows of the call.
        threads: number of threads that may run at the same time.
    """
    return max(1, min(threads, num_rows, multiplications // _WORTH))


def run_in_parts(
    function: Callable[[slice], object],
    num_rows: int,
    *,
    multiplications: int = 0,
    threads: int = 1,
    largest: int = _LARGEST_CALL,
) -> None:
    """Calls a function with parts of the rows.

    Args:
        function: gets the rows of a part. Several threads must be able to call it at the same time.
        num_rows: number of all rows.
        multiplications: about the number of multiplications for one row.
        threads: number of parts that may run at the same time.
        largest: largest number of rows of a part.
    """
    count = num_parts(multiplications * num_rows, num_rows, threads)
    count = max(count, -(-num_rows // largest))
    edges = [number * num_rows // count for number in range(count + 1)]
    jobs = [partial(function, slice(*edge)) for edge in pairwise(edges)]
    for first in range(0, count, threads):
        run_together(jobs[first : first + threads])


def call_in_parts(
    call: Call,
    inputs: Mapping[str, np.ndarray],
    signature: str,
    *,
    multiplications: int = 0,
    threads: int = 1,
    largest: int = _LARGEST_CALL,
) -> Mapping[str, np.ndarray]:
    """Runs a signature on parts of a batch, and joins the outputs; see `run_in_parts`.

    Args:
        call: runs signatures.
        inputs: arrays by name, with at least one row.
        signature: name of the signature.
        multiplications: about the number of multiplications for one row.
        threads: number of parts that may run at the same time.
        largest: largest number of rows of a part.
    """
    found: dict[int, Mapping[str, np.ndarray]] = {}

    def run(rows: slice) -> None:
        part = {name: array[rows] for name, array in inputs.items()}
        found[rows.start] = call(part, signature)

    num_rows = len(next(iter(inputs.values())))
    options = {"multiplications": multiplications, "threads": threads, "largest": largest}
    run_in_parts(run, num_rows, **options)
    first, *others = (found[start] for start in sorted(found))
    if not others:
        return first
    return {name: np.concatenate([first[name], *(x[name] for x in others)]) for name in first}
