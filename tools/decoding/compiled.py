"""Compilation of loops over arrays to machine code, with numba.

Import the modules that use it only where a beam search or a language model is used: importing numba
takes a second.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numba
import numpy as np

from tools.files import user_cache
from tools.hashing import code_hash

Function = TypeVar("Function", bound=Callable)


def compiled(function: Function) -> Function:
    """Compiles a function on its first call, for the types of its arguments.

    The machine code is kept in the user's cache, in a folder for this version of the modules: the
    code of a function contains that of the functions it calls, also of those in other modules,
    whose changes numba does not notice. The function releases Python's global lock while it runs.
    """
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(_cache())
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # the folder is not writable
        return numba.njit(nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def _cache() -> Path:
    """Returns the folder for the machine code of the functions in this package as they are now."""
    code = code_hash(Path(__file__).parent)[:16]
    return user_cache() / "machine_code" / f"{code}-numba-{numba.__version__}"


@compiled
def sum_of_logs(one, other):
    """Returns the logarithm of the sum of two numbers that are given by their logarithms."""
    most, least = max(one, other), min(one, other)
    return most if least == -np.inf else most + np.log1p(np.exp(least - most))
