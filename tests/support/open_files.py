"""Which files the process has open."""

import contextlib
import os
from collections.abc import Iterator


def open_files() -> dict[str, str]:
    """What every descriptor of the process stands for."""
    found = {}
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one of the listing itself
            found[descriptor] = os.readlink(f"/proc/self/fd/{descriptor}")
    return found


@contextlib.contextmanager
def nothing_stays_open() -> Iterator[None]:
    """Fails where a block leaves a descriptor open that was not open before it."""
    before = open_files()
    yield
    after = open_files()
    assert {k: after[k] for k in after.keys() - before.keys()} == {}
    assert after == before
