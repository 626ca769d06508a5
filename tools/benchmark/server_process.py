"""The built-in server as a process, for measurements and tests."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.errors import UserError
from tools.files import to_json

_START_SECONDS = 300.0  # with a conversion
_END_SECONDS = 120.0
_POLL_SECONDS = 0.02


class ServerProcess:
    """A server that runs until `end`, or until the `with` statement ends.

    Args:
        project: the checkout.
        *flags: flags of `tools.cli.serve`, besides the port, which is a free one.

    Attributes:
        address: its address, such as `http://127.0.0.1:12345`.
        pid: number of the process.

    Raises:
        UserError: the server does not start.
    """

    def __init__(self, project: Path, *flags: object):
        # A file, because a pipe that nobody reads would stop the server once it is full.
        self._log = tempfile.NamedTemporaryFile("rb", suffix=".log")  # noqa: SIM115
        program = [sys.executable, "-m", "tools.cli.serve", "--rest_api_port=0", *map(str, flags)]
        with open(self._log.name, "wb") as log:
            self._process = subprocess.Popen(program, cwd=project, stderr=log, env=os.environ)
        self.pid = self._process.pid

        def is_ready() -> bool:
            return "serving " in self.log() or self._process.poll() is not None

        self.wait_until(is_ready, _START_SECONDS)
        found = re.search(r"^serving .* on (http://\S+)$", self.log(), re.MULTILINE)
        if found is None:
            last = self.log().strip().splitlines()[-1:] or ["no message"]
            self.__exit__(None, None, None)
            raise UserError.expected("a server that starts", last[0], "Correct its flags")
        self.address = found[1]

    def log(self) -> str:
        """Returns what the server has written to stderr."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def wait_until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Waits until a condition holds.

        Raises:
            UserError: it does not hold after `seconds`.
        """
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                self.__exit__(None, None, None)
                raise UserError.expected(
                    f"a server that is ready within {seconds:g} s", "none", "See its log"
                )
            time.sleep(_POLL_SECONDS)

    def get(self, path: str) -> bytes:
        """Returns the body of the answer to a GET request."""
        with urllib.request.urlopen(self.address + path, timeout=_END_SECONDS) as answer:
            return answer.read()

    def post(self, path: str, content: object) -> dict:
        """Returns the JSON answer to a POST request with a JSON body."""
        request = urllib.request.Request(self.address + path, to_json(content).encode())
        with urllib.request.urlopen(request, timeout=_END_SECONDS) as answer:
            return json.load(answer)

    def ask_to_end(self) -> None:
        """Sends SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Sends SIGTERM, waits for the end, and returns the exit code."""
        self.ask_to_end()
        return self._process.wait(_END_SECONDS)

    def wait(self) -> int:
        """Waits for the end and returns the exit code."""
        return self._process.wait(_END_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()
