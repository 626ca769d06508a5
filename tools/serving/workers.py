"""Several processes that do the same work: started, watched, and ended together."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
_RESTART_SECONDS = 1.0
_MOST_BYTES = 4096  # that a pipe takes at once


class Workers:
    """Runs a function in several processes until SIGTERM or SIGINT.

    A process that ends by itself is started again. If this process is killed, the others end.

    Args:
        work: function that gets a function to call with a text when it is ready, and returns an
            exit code. It ends after SIGTERM.
        count: number of processes.
        ended: called in this process with the number of a process that has ended.
        ending: called in this process at the first signal.
    """

    def __init__(
        self,
        work: Callable[[Callable[[str], None]], int],
        count: int,
        *,
        ended: Callable[[int], None],
        ending: Callable[[], None],
    ):
        self._work, self._count = work, count
        self._ended, self._ending_hook = ended, ending
        self._running: set[int] = set()
        self._is_ending, self._result = False, 0
        self._alive_end, self._alive = os.pipe()

    def run(self, started: Callable[[str], None]) -> int:
        """Returns the exit code; in the other processes, that of `work`.

        The first process starts alone, so that a model is converted once and an error is
        reported once.

        Args:
            started: called in this process with the text of the first process when all are ready.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_end)
        code, text = 0, b""
        for count in (1, self._count - 1):
            pipes = []
            for _ in range(count):
                pipe = self._start()
                if pipe is None:
                    return self._result
                pipes.append(pipe)
            ready = [os.read(pipe, _MOST_BYTES) for pipe in pipes]
            for pipe in pipes:
                os.close(pipe)
            if not all(ready):
                self._ask_to_end()
                return self._wait_for_all(code)
            text = text or ready[0]
        started(text.decode())
        while self._running:
            pid, status = os.wait()
            self._remove(pid)
            status = os.waitstatus_to_exitcode(status)
            if self._is_ending:
                code = code or status
                continue
            _log.error("process %d ended with status %d; another one is started", pid, status)
            time.sleep(_RESTART_SECONDS)
            pipe = self._start()
            if pipe is None:
                return self._result
            os.close(pipe)
        return code

    def _start(self) -> int | None:
        """Starts a process; returns the pipe that tells when it is ready, None in the process."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            self._running.add(pid)
            if self._is_ending:
                os.kill(pid, signal.SIGTERM)
            return reading
        os.setpgrp()  # Ctrl-C reaches the first process only, which asks the others to end
        os.close(reading)
        os.close(self._alive)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=self._end_with_parent, daemon=True).start()

        def ready(text: str) -> None:
            with contextlib.suppress(BrokenPipeError):  # nobody waits for a later process
                os.write(writing, text.encode()[:_MOST_BYTES])
            os.close(writing)

        self._result = self._work(ready)
        return None

    def _end_with_parent(self) -> None:
        """Ends this process when the one that started it has ended."""
        os.read(self._alive_end, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _ask_to_end(self, *signaled: object) -> None:
        if not self._is_ending:
            self._is_ending = True
            self._ending_hook()
        for pid in tuple(self._running):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGTERM)

    def _wait_for_all(self, code: int) -> int:
        while self._running:
            pid, status = os.wait()
            self._remove(pid)
            code = code or os.waitstatus_to_exitcode(status)
        return code

    def _remove(self, pid: int) -> None:
        self._running.discard(pid)
        self._ended(pid)
