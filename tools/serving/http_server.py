"""Runs the HTTP application until the process is asked to end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from tools.errors import UserError


class _Server(uvicorn.Server):
    """A server that ends normally after a signal; uvicorn's own raises the signal again."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:
        """Leaves the signals to `serve`."""
        return contextlib.nullcontext()

    def ask_to_end(self) -> None:
        """Accepts no further requests; the second call does not wait for the last answers."""
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Args:
        host: name or address of an interface of this machine.
        port: number of the port; 0 chooses a free one.

    Raises:
        UserError: the address cannot be used.
    """
    found = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        if found is not None:
            found.close()
        raise UserError.expected(
            "a free port on an interface of this machine",
            f"{host}:{port}, {error}",
            "Choose another --rest_api_port or --host",
        ) from error
    return found


def serve(
    app: FastAPI, connection: socket.socket, *, drain_seconds: float, on_start: Callable[[], None]
) -> None:
    """Answers requests until SIGTERM or SIGINT. Requests that have begun are answered first.

    Args:
        app: the application.
        connection: socket from `listen`.
        drain_seconds: longest time for the last answers.
        on_start: called when the server accepts requests.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=round(drain_seconds),
    )
    server = _Server(config)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.ask_to_end)
        task = asyncio.create_task(server.serve(sockets=[connection]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if server.started:
            on_start()
        await task

    asyncio.run(work())
