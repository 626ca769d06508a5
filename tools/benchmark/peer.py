"""A model of another framework in a separate process: requests and replies are lines of JSON."""

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from tools.errors import UserError

_GRACE_SECONDS = 1.0  # in which a peer ends by itself after its parent has closed the pipe


class Peer:
    """Starts the process and sends requests to it.

    Args:
        command: command of a process that runs `answer_requests`.
    """

    def __init__(self, command: Sequence[str]):
        # The threads of the peer may spin between operators. Without spinning PyTorch takes 40 %
        # longer (Conformer-tiny, batch 1). They have stopped when the next side runs.
        quiet = ("KMP_BLOCKTIME", "OMP_WAIT_POLICY")
        environment = {name: x for name, x in os.environ.items() if name not in quiet}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )

    def ask(self, method: str, *arguments, seconds: float | None = None):
        """Calls a method of the object in the process and returns its result.

        Args:
            method: name of the method.
            arguments: its arguments.
            seconds: longest time to wait for the reply; None waits without a limit.

        Raises:
            UserError: the process has ended, and its own output says why; or there was no reply in
                time, and the process was ended.
        """
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                self._process.kill()
                raise UserError.expected(
                    f"a reply of the peer to {method} within {seconds:g} s",
                    "none",
                    "Give it more time, or leave the peer out",
                )
            line = self._process.stdout.readline()
        if not line:
            raise UserError.expected(
                f"a peer that can {method}",
                f"one that ended with code {self._process.wait()}",
                "Read the error above, or leave the peer out",
            )
        return json.loads(line)[0]

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextlib.contextmanager
def open_peer(
    module: str,
    packages: Sequence[str],
    *arguments: str,
    absent: str = "",
    python: str = sys.executable,
) -> Iterator[Peer | None]:
    """Starts a peer. If that is not possible, prints the reason and yields None.

    Args:
        module: module of the program.
        packages: packages that it needs, of the extra `peers`.
        arguments: arguments of the program.
        absent: reason not to start it; empty if there is none.
        python: interpreter of the environment in which the program runs.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing and not absent:
        absent = f"no {missing[0]} (`bash run_scripts/setup.sh --peers` installs it)"
    if absent:
        print(f"{absent}: our side runs alone", file=sys.stderr)
        yield None
        return
    peer = Peer([python, "-m", module, *arguments])
    try:
        yield peer
    finally:
        peer.close()


@contextlib.contextmanager
def answers() -> Iterator:
    """Yields a stream to stdout for the replies; all other output goes to stderr.

    Within the context, the process ends when its parent has closed stdin or has ended, also in the
    middle of a request.
    """
    ended = threading.Event()
    threading.Thread(target=_end_with_stdin, args=[ended], daemon=True).start()
    try:
        with os.fdopen(os.dup(1), "w", buffering=1) as stream:
            os.dup2(2, 1)
            yield stream
    finally:
        ended.set()


def _end_with_stdin(ended: threading.Event) -> None:
    """Ends this process if it goes on for a while after the other end of stdin was closed."""
    poll = select.poll()
    poll.register(0, 0)  # no event but the end
    (_, event), *_ = poll.poll()
    if event & select.POLLHUP and not ended.wait(_GRACE_SECONDS):
        os._exit(1)


def answer_requests(target: object, stream) -> None:
    """Calls the methods of `target` that stdin requests, until stdin ends."""
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps([getattr(target, method)(*arguments)]), file=stream)
