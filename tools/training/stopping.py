"""Handling of SIGTERM and SIGHUP: training saves a checkpoint after the step, and ends."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from tools.files import drop_lost_output
from tools.signal_stack import no_signal_stack
from tools.training.distributed import Processes

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """Raised by a signal during work that no other process waits for, such as evaluation."""


class StopSignals:
    """Records whether a signal has asked this process to stop; created by `stop_signals`.

    Args:
        processes: processes of the run.
        notice: function of the signal's name that returns the line to print when it comes.
    """

    def __init__(self, processes: Processes, notice: Callable[[str], str]):
        self._processes, self._notice = processes, notice
        self._number: int | None = None
        self._interrupts = False

    @property
    def received(self) -> bool:
        """Whether this process has received a signal."""
        return self._number is not None

    def handle(self, number: int, _frame: object) -> None:
        """Signal handler: records the first signal. The next one ends the process at once.

        Raises:
            Interrupted: inside an `interruptible` block.
        """
        self._number = number
        for one in _SIGNALS:
            if signal.getsignal(one) == self.handle:  # keep signals that are ignored (nohup)
                signal.signal(one, signal.SIG_DFL)
        if self._processes.rank == 0:
            drop_lost_output()  # SIGHUP means that the terminal was closed
            line = f"\n{self._notice(signal.Signals(number).name)}\n"
            os.write(2, line.encode(errors="replace"))  # streams are not reentrant in handlers
        if self._interrupts:
            raise Interrupted

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Makes a signal raise `Interrupted` in the block, if there is a single process.

        Raises:
            Interrupted: a signal came before or during the block.
        """
        self._interrupts = self._processes.size == 1
        try:
            if self._interrupts and self.received:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    def received_by_any(self) -> bool:
        """Returns whether any process has received a signal; must be called on all processes."""
        return any(self._processes.gather_objects(self.received))

    def end(self) -> SystemExit:
        """Returns the exception that ends the program, with exit code 128 + signal number."""
        return SystemExit(128 + (self._number or signal.SIGTERM))

    @property
    def name(self) -> str:
        """Name of the signal that this process received; a text if another rank received it."""
        return signal.Signals(self._number).name if self._number else "a signal to another rank"


@contextlib.contextmanager
def stop_signals(processes: Processes, notice: Callable[[str], str]) -> Iterator[StopSignals]:
    """Handles SIGTERM and SIGHUP while the block runs; see `StopSignals`.

    Signals that were ignored before, such as SIGHUP under `nohup`, stay ignored. Outside the main
    thread no signal is handled.
    """
    signals = StopSignals(processes, notice)
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    with no_signal_stack():
        before = {}
        for number in _SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, signals.handle)
        try:
            yield signals
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
