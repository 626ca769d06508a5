"""Calls that are divided among threads."""

import threading

import numpy as np
import pytest

from tools.decoding.parallel import call_in_parts, num_parts, run_in_parts
from tools.threads import run_together


def test_parts_are_joined_in_order():
    sizes, threads = [], set()
    both = threading.Barrier(2)

    def call(inputs, signature):
        both.wait(10)  # the parts run at the same time
        sizes.append(len(inputs["x"]))
        threads.add(threading.get_ident())
        return {"y": 2 * inputs["x"], "name": np.full(len(inputs["x"]), signature)}

    inputs = {"x": np.arange(5), "other": np.zeros((5, 2))}
    found = call_in_parts(call, inputs, "join", multiplications=10**9, threads=2)
    np.testing.assert_array_equal(found["y"], 2 * np.arange(5))
    assert found["name"].tolist() == ["join"] * 5
    assert sorted(sizes) == [2, 3]
    assert len(threads) == 2


@pytest.mark.parametrize(
    ("multiplications", "num_rows", "threads", "expected"),
    [(10**9, 16, 2, 2), (10**9, 1, 2, 1), (10**9, 16, 1, 1), (10**5, 16, 8, 1)],
)
def test_small_calls_are_not_divided(multiplications, num_rows, threads, expected):
    assert num_parts(multiplications, num_rows, threads) == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_no_part_is_larger_than_a_conversion_takes(threads):
    parts = []
    run_in_parts(parts.append, 200, multiplications=1, threads=threads)
    assert all(0 < part.stop - part.start <= 64 for part in parts)
    rows = np.concatenate([np.arange(200)[part] for part in sorted(parts, key=lambda x: x.start)])
    np.testing.assert_array_equal(rows, np.arange(200))


def test_an_exception_of_a_thread_is_raised():
    done = []

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_together([fail, lambda: done.append(1)])
    assert done == [1]
