"""Tells which process of a launcher such as horovodrun this is. Imports no TensorFlow."""

import os
import time
from collections.abc import Iterable

_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_SIZES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def uses_horovod(use_horovod: bool | None) -> bool:
    """Returns whether this process communicates with others through Horovod.

    Args:
        use_horovod: value of `--use_horovod`. None uses Horovod if `horovodrun` or mpirun has
            started this process.
    """
    if use_horovod is None:
        return any(name in os.environ for name in _VARIABLES)
    return use_horovod


def launched_rank() -> int:
    """Returns the rank that a launcher has given to this process; 0 without a launcher."""
    return _number(_VARIABLES, 0)


def launched_size() -> int:
    """Returns the number of processes that a launcher has started; 1 without a launcher."""
    return _number(_SIZES, 1)


def _number(names: Iterable[str], default: int) -> int:
    """Returns the first number among environment variables."""
    words = (os.environ.get(name, "") for name in names)
    return next((int(word) for word in words if word.isdecimal()), default)


def leave_to_first_rank(seconds: float = 60.0) -> None:
    """Waits on all ranks but the first, before an error that all of them have found.

    The first rank prints the error and ends, and the launcher then ends the others. Another rank
    that ended earlier could make the launcher end the first one before it prints.

    Args:
        seconds: longest wait, after which this rank may print the error too.
    """
    if launched_rank() > 0:
        time.sleep(seconds)
