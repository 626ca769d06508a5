"""Timing several sides in turn, so that what slows the machine for a while slows them all.

To be imported before any runtime: they read their settings when they are loaded.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Threads of one runtime that wait by spinning would slow the other ones.
os.environ.setdefault("KMP_BLOCKTIME", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from tqdm import tqdm

from tools.errors import UserError


def use_cores(count: int) -> None:
    """Restricts the threads that runtimes make from now on, here and in processes started here.

    Raises:
        UserError: there are fewer cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cores):
        raise UserError.expected(
            f"--threads from 1 to {len(cores)}, the cores here", count, "Correct --threads"
        )
    if count < len(cores):
        os.sched_setaffinity(0, cores[:count])


def timed(function: Callable, *arguments) -> Callable[[], float]:
    """Makes a function that calls another one and gives the seconds it took."""

    def call() -> float:
        started = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - started

    return call


def time_in_turn(
    sides: Mapping[str, Callable[[], float]],
    batch: int,
    loop: int,
    warmup_seconds: float,
    *,
    rest_seconds: float = 0.0,
    warmup_calls: int = 2,
) -> dict[str, dict[str, float]]:
    """Runs every side once per round.

    Args:
        sides: by name, what runs a batch and gives the seconds that it took.
        batch: rows of a batch.
        loop: rounds.
        warmup_seconds: for every side, before the rounds.
        rest_seconds: before every call, in which the threads of the side before fall asleep.
        warmup_calls: at least so many, since the first call of a shape prepares for it.

    Returns:
        Milliseconds per batch and rows per second, by side.
    """
    for run in sides.values():
        started, calls = time.perf_counter(), 0
        while calls < warmup_calls or time.perf_counter() - started < warmup_seconds:
            calls += 1
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in tqdm(range(loop), desc=f"batch {batch}", file=sys.stderr):
        for name, run in sides.items():
            time.sleep(rest_seconds)
            seconds[name].append(run())
    return {
        name: {
            "median_ms": 1e3 * float(np.median(values)),
            "p95_ms": 1e3 * float(np.percentile(values, 95)),
            "fps": batch / float(np.median(values)),
        }
        for name, values in seconds.items()
    }


def batch_sizes(text: str) -> list[int]:
    """Reads "1,8".

    Raises:
        UserError: it is something else.
    """
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise UserError.expected("--batch_sizes like 1,8", text, "Correct --batch_sizes")
    return numbers
