"""The stack on which signals are handled."""

import contextlib
import ctypes
from collections.abc import Iterator

_DISABLED = 2  # SS_DISABLE of sigaltstack(2)


class _SignalStack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def no_signal_stack() -> Iterator[None]:
    """Disables the alternate signal stack of this thread during a `with` statement.

    Python's faulthandler (3.11) sets an alternate stack of 11 KiB. On processors with AMX the saved
    registers nearly fill it or do not fit, and a handler would overwrite the memory before it. So
    whatever handles a signal in Python does it on the thread's own stack.
    """
    set_stack, before = ctypes.CDLL(None).sigaltstack, _SignalStack()
    set_stack(ctypes.byref(_SignalStack(flags=_DISABLED)), ctypes.byref(before))
    try:
        yield
    finally:
        if before.flags != _DISABLED:
            set_stack(ctypes.byref(before), None)
