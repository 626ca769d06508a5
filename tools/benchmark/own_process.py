"""Measurements that need a process of their own: memory, first calls, rate of matrix products."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from tools.benchmark.turns import timed


def in_own_process(function: Callable, *arguments):
    """Calls a function in a new process and returns its result."""
    with _new_process() as pool:
        return pool.submit(function, *arguments).result()


class OwnProcess:
    """An object in a process of its own.

    Args:
        make: class, or another function that returns the object.
        arguments: arguments of `make`, which can be pickled.
    """

    def __init__(self, make: Callable, *arguments):
        self._pool = _new_process()
        self._pool.submit(_make, make, arguments).result()

    def ask(self, method: str, *arguments):
        """Calls a method of the object and returns its result."""
        return self._pool.submit(_ask, method, arguments).result()

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()


def _new_process() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Ends this process when its parent has ended, also if the parent was killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


_made: list = []  # the object of this process


def _make(make: Callable, arguments: tuple) -> None:
    _made[:] = [make(*arguments)]


def _ask(method: str, arguments: tuple):
    return getattr(_made[0], method)(*arguments)


def median_seconds(call: Callable, rounds: int) -> float:
    """Returns the median time of calls in seconds."""
    run = timed(call)
    return float(np.median([run() for _ in range(rounds)]))


def gemm_gflops(shapes: Mapping[tuple[int, int, int], float], seconds: float = 1.0) -> float:
    """Measures the rate of TensorFlow's float32 matrix products.

    Args:
        shapes: weight of each product `[M, K] x [K, N]` as a share of the operations, by (M, K, N).
        seconds: time to spend on each product.

    Returns:
        Rate of a mixture of the products with these weights, in 10^9 operations per second.
    """
    import tensorflow as tf  # here, so that the calling process need not load it

    time_per_operation = 0.0
    for (m, k, n), weight in shapes.items():
        matrices = tf.random.normal([m, k]), tf.random.normal([k, n])
        product = tf.function(tf.matmul)
        product(*matrices)
        times, started = [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - started < seconds:
            times.append(timed(product, *matrices)())
        time_per_operation += weight * float(np.median(times)) / (2.0 * m * k * n)
    return 1e-9 * sum(shapes.values()) / time_per_operation
