"""The allocator of a server, in a process of its own."""

import subprocess
import sys

from tools.conversion.machine import num_cores

# Prints how much memory is left of freed blocks in MiB, and the number of heaps of threads.
PROGRAM = """
import re, resource, sys, threading
from tools.serving.allocator import return_freed_memory

if sys.argv[1] == "set":
    return_freed_memory()

def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

del (first := [bytearray(30 << 20)])[:]
before = size()
freed = bytearray(20 << 20)
behind = bytearray(200_000)
del freed
print(round(size() - before))

barrier = threading.Barrier(40)
def work():
    own = bytearray(100_000)
    barrier.wait(20)
threads = [threading.Thread(target=work) for _ in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
pairs = re.findall(
    r"^(\\w+)-\\w+ rw-p .* 0 *\\n\\w+-(\\w+) ---p", open("/proc/self/maps").read(), re.MULTILINE
)
print(sum(int(end, 16) - int(start, 16) == 64 << 20 for start, end in pairs))
"""


def left(project, how):
    """Returns the two numbers that the program prints."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in found.stdout.split()]


def test_freed_memory_is_returned_and_threads_share_few_heaps(project):
    memory, heaps = left(project, "set")
    assert memory <= 2 and heaps <= num_cores()
    # Without it, the C library of this machine keeps both.
    memory, heaps = left(project, "not")
    assert memory >= 18 and heaps > num_cores()
