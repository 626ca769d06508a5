"""A model of another framework in a process of its own, which answers a line of JSON with one."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tools.errors import UserError


class Peer:
    """The near end: asks a line of JSON and reads a line of JSON.

    Args:
        command: of a process that answers like `answer_requests`.
    """

    def __init__(self, command: Sequence[str]):
        # In a process of its own threads may spin between operators: without, PyTorch takes 40 %
        # longer (Conformer-tiny, batch 1). They are asleep before the next side's turn.
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

    def ask(self, method: str, *arguments):
        """Calls a method of the other end.

        Raises:
            UserError: the process has ended; it has said why.
        """
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
            line = self._process.stdout.readline()
        if not line:
            raise UserError.expected(
                f"a peer that can {method}",
                f"one that ended with code {self._process.wait()}",
                "Read above why, or leave the peer out",
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
    module: str, packages: Sequence[str], *arguments: str, absent: str = ""
) -> Iterator[Peer | None]:
    """Starts a peer; gives None, and says so, where there is none to start.

    Args:
        module: the program.
        packages: that it needs, of the extra `peers`.
        arguments: of the program.
        absent: why there is none, whatever is installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing and not absent:
        absent = f"no {missing[0]} (`bash run_scripts/setup.sh --peers` installs it)"
    if absent:
        print(f"{absent}: our side runs alone", file=sys.stderr)
        yield None
        return
    peer = Peer([sys.executable, "-m", module, *arguments])
    try:
        yield peer
    finally:
        peer.close()


@contextlib.contextmanager
def answers() -> Iterator:
    """Opens what answers are written to; what else is printed, by an exporter say, is no answer."""
    with os.fdopen(os.dup(1), "w", buffering=1) as stream:
        os.dup2(2, 1)
        yield stream


def answer_requests(target: object, stream) -> None:
    """The far end: calls the target's methods until nobody asks any more."""
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps([getattr(target, method)(*arguments)]), file=stream)
