"""Memory of processes."""

import subprocess
import sys

import numpy as np

from tools.memory import peak_resident_bytes

SIZE = 300 * 2**20
PRINTS = "from tools.memory import peak_resident_bytes; print(peak_resident_bytes())"


def printed(program: str) -> int:
    """Runs a program in a process of its own; returns the number that it prints."""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return int(child.stdout)


def test_the_peak_stays_after_memory_is_freed():
    program = f"import numpy as np; block = np.ones({SIZE}, np.uint8); del block; {PRINTS}"
    assert printed(program) > SIZE


def test_the_peak_is_that_of_the_process_and_not_of_its_parent():
    block = np.ones(SIZE, np.uint8)
    assert 2**20 < printed(PRINTS) < block.nbytes


def test_a_process_that_has_ended_has_none():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert peak_resident_bytes(child.pid) == 0


def test_pages_of_files_are_not_anonymous(tmp_path):
    size, path = 64 * 2**20, tmp_path / "pages"
    path.write_bytes(bytes(size))
    program = (
        f"import numpy as np; pages = np.memmap({str(path)!r}, np.uint8, 'r'); pages.sum(); "
        "from tools import memory; "
        "print(memory.peak_resident_bytes() - memory.anonymous_bytes())"
    )
    assert printed(program) > size
