"""Times several sides in turn, so that a slower phase of the machine affects all of them.

Import this module before any runtime: a runtime reads its environment variables when it is loaded.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Threads of one runtime that spin while they wait would slow the others down.
os.environ.setdefault("KMP_BLOCKTIME", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from tqdm import tqdm

from tools.errors import UserError


def use_cores(count: int) -> None:
    """Restricts this process, and those that it starts, to a number of cores.

    Raises:
        UserError: the machine has fewer cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cores):
        raise UserError.expected(
            f"--threads from 1 to {len(cores)}, the cores here", count, "Correct --threads"
        )
    if count < len(cores):
        os.sched_setaffinity(0, cores[:count])


def timed(function: Callable, *arguments) -> Callable[[], float]:
    """Returns a function that calls `function` and returns its seconds."""

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
        sides: functions by name that run a batch and return its seconds.
        batch: rows of a batch.
        loop: number of rounds.
        warmup_seconds: warm-up of every side before the rounds.
        rest_seconds: pause before every call, in which the threads of the previous side stop.
        warmup_calls: smallest number of calls in the warm-up, because a runtime prepares itself
            for a shape in the first call.

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
    """Parses batch sizes such as "1,8".

    Raises:
        UserError: the text has another form.
    """
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise UserError.expected("--batch_sizes like 1,8", text, "Correct --batch_sizes")
    return numbers
