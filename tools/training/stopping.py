"""SIGTERM and SIGHUP during training: noted, so that the run saves and ends between two steps."""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator

from tools.files import drop_lost_output
from tools.training.distributed import Processes

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_DISABLED = 2  # SS_DISABLE of sigaltstack(2)


class Interrupted(Exception):
    """Ends work that needs no other process, such as an evaluation by one process."""


class StopSignals:
    """What a process was told by signals; `stop_signals` makes one.

    Args:
        processes: of the run.
        notice: gives the line that is written to stderr when the signal comes.
    """

    def __init__(self, processes: Processes, notice: Callable[[str], str]):
        self._processes, self._notice = processes, notice
        self._number: int | None = None
        self._interrupts = False

    @property
    def received(self) -> bool:
        """Whether a signal has come to this process."""
        return self._number is not None

    def handle(self, number: int, _frame: object) -> None:
        """Notes a signal; the next one ends the process at once."""
        self._number = number
        for one in _SIGNALS:
            if signal.getsignal(one) == self.handle:  # not where it is ignored, as under nohup
                signal.signal(one, signal.SIG_DFL)
        if self._processes.rank == 0:
            drop_lost_output()  # SIGHUP comes because the terminal is gone
            line = f"\n{self._notice(signal.Signals(number).name)}\n"
            os.write(2, line.encode(errors="replace"))  # a handler must not enter a stream again
        if self._interrupts:
            raise Interrupted

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Lets a signal end the block by `Interrupted`, where no other process waits for it."""
        self._interrupts = self._processes.size == 1
        try:
            if self._interrupts and self.received:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    def received_by_any(self) -> bool:
        """Whether a signal has come to any process; all call it together."""
        return any(self._processes.gather_objects(self.received))

    def end(self) -> SystemExit:
        """Returns what ends the program: exit code 128 + the signal's number, as of a shell."""
        return SystemExit(128 + (self._number or signal.SIGTERM))

    @property
    def name(self) -> str:
        """Name of the signal that came to this process, or to another one."""
        return signal.Signals(self._number).name if self._number else "a signal to another rank"


@contextlib.contextmanager
def stop_signals(processes: Processes, notice: Callable[[str], str]) -> Iterator[StopSignals]:
    """Notes SIGTERM and SIGHUP while the block runs, in the main thread; see `StopSignals`.

    A signal that was ignored before, as SIGHUP is under `nohup`, stays ignored.
    """
    signals = StopSignals(processes, notice)
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    with _no_signal_stack():
        before = {}
        for number in _SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, signals.handle)
        try:
            yield signals
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _SignalStack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def _no_signal_stack() -> Iterator[None]:
    """Lets signals come on the thread's own stack.

    Python's faulthandler (3.11) sets a stack of 11 KiB for them. The registers of a process that
    has used AMX do not fit in it: the first signal would end that process by a segmentation fault.
    """
    set_stack, before = ctypes.CDLL(None).sigaltstack, _SignalStack()
    set_stack(ctypes.byref(_SignalStack(flags=_DISABLED)), ctypes.byref(before))
    try:
        yield
    finally:
        if before.flags != _DISABLED:
            set_stack(ctypes.byref(before), None)
