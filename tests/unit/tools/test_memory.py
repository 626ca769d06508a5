"""Peak memory of processes."""

import subprocess
import sys

import numpy as np

from tools.memory import peak_resident_bytes

PROGRAM = "from tools.memory import peak_resident_bytes; print(peak_resident_bytes())"


def test_the_peak_stays_after_memory_is_freed():
    block = np.ones(300 * 2**20, np.uint8)
    size = block.nbytes
    del block
    assert peak_resident_bytes() > size


def test_the_peak_is_that_of_the_process_and_not_of_its_parent():
    block = np.ones(300 * 2**20, np.uint8)
    child = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert 2**20 < int(child.stdout) < block.nbytes


def test_a_process_that_has_ended_has_none():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert peak_resident_bytes(child.pid) == 0
