"""Compilation of loops over arrays to machine code, with numba.

Import the modules that use it only where a beam search or a language model is used: importing numba
takes a second.
"""

from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable)


def compiled(function: Function) -> Function:
    """Compiles a function on its first call, for the types of its arguments.

    The machine code is kept beside the source file, or in the user's cache if that folder is
    read-only. The function releases Python's global lock while it runs.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither folder is writable
        return numba.njit(nogil=True)(function)


@compiled
def sum_of_logs(one, other):
    """Returns the logarithm of the sum of two numbers that are given by their logarithms."""
    most, least = max(one, other), min(one, other)
    return most if least == -np.inf else most + np.log1p(np.exp(least - most))
