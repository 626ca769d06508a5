"""Compilation of loops over arrays to machine code, with numba.

Import the modules that use it only where a beam search or a language model is used: importing numba
takes a second.
"""

from collections.abc import Callable
from typing import TypeVar

import numba

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
