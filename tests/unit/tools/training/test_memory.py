"""The search for the largest number that fits, and calls with a memory limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.errors import refused
from tools.training import memory
from tools.training.memory import available_bytes, gpu_memory_bytes, largest_fitting, peak_within

MIB = 2**20


@given(st.integers(0, 300), st.integers(1, 256), st.integers(1, 256))
def test_the_largest_number_that_fits_is_found_exactly(limit, most, start):
    tried = []
    found = largest_fitting(
        lambda n: tried.append(n) or n <= limit, most, start=start, accuracy=0.0
    )
    assert found == min(limit, most)
    assert all(1 <= n <= most for n in tried) and len(tried) == len(set(tried)) <= 18


@given(st.integers(1, 5000))
def test_the_accuracy_is_relative(limit):
    found = largest_fitting(lambda n: n <= limit, 5000, accuracy=0.1)
    assert found <= limit < 1.1 * found + 1


def test_the_peak_of_a_call_is_measured():
    code = "array = bytearray(b'1') * {}"
    small, large = (peak_within(10**11, exec, code.format(size * MIB)) for size in (1, 401))
    assert 390 * MIB < large - small < 420 * MIB
    assert peak_within(large - 200 * MIB, exec, code.format(401 * MIB)) is None


def test_a_call_that_exceeds_the_limit_is_ended():
    code = "import time; array = bytearray(b'1') * 400_000_000; time.sleep(600)"
    assert peak_within(3 * 10**8, exec, code) is None


@pytest.mark.parametrize(
    "code",
    [
        "raise MemoryError",
        "class ResourceExhaustedError(Exception): pass\nraise ResourceExhaustedError",
        "import os; os.kill(os.getpid(), 9)",  # as the kernel does
    ],
)
def test_a_call_that_runs_out_of_memory_does_not_fit(code):
    assert peak_within(10**11, exec, code) is None


@pytest.mark.parametrize(
    ("code", "message"),
    [("raise ValueError('broken')", "ValueError: broken"), ("import os; os._exit(3)", "code 3")],
)
def test_a_call_that_fails_is_no_matter_of_memory(code, message):
    with pytest.raises(RuntimeError, match=message):
        peak_within(10**11, exec, code)


def test_the_memory_of_a_container_is_a_limit(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", [str(limit), str(tmp_path / "absent")])
    free = available_bytes()
    assert 2**26 < free < 2**50
    limit.write_text("max\n")
    assert available_bytes() == pytest.approx(free, rel=0.5)
    limit.write_text("123456\n")
    assert available_bytes() == 123456


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Returns a function that makes a program nvidia-smi, which runs a shell script."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(script):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return make


def test_the_memory_of_the_smallest_gpu(nvidia_smi):
    nvidia_smi("echo 8192; echo 4096")
    assert gpu_memory_bytes() == 4096 * MIB


@pytest.mark.parametrize("script", [None, "echo '[N/A]'", "echo 8192; echo '[N/A]'", "exit 9", ""])
def test_a_gpu_of_unknown_memory_is_one_line(nvidia_smi, script):
    """The program nvidia-smi is missing, does not know the memory, fails, or lists no GPU."""
    if script is not None:
        nvidia_smi(script)
    with refused(match="memory of the GPU from nvidia-smi.*Give --memory_gb"):
        gpu_memory_bytes()


def test_the_largest_number_to_try_is_tried_if_all_fit():
    assert largest_fitting(lambda n: True, 100, start=97) == 100
