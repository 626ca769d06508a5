"""Runs the HTTP application until the process is asked to end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from tools.errors import UserError
from tools.serving.requests import is_ending
from tools.signal_stack import no_signal_stack

_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class _Protocol(H11Protocol):
    """A connection that is closed if the head of a request takes too long; uvicorn waits forever.

    The time of the body is limited by `Gate`, the time between two requests by uvicorn.
    """

    head_seconds = 20.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Starts the time if a head is expected, and stops it if a request has begun."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TOO_LATE)
            self.transport.close()


class _Server(uvicorn.Server):
    """A server that ends normally after a signal; uvicorn's own raises the signal again."""

    last_seconds = 0.3  # in which it still reads after a signal what clients had sent before

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:
        """Leaves the signals to `serve`."""
        return contextlib.nullcontext()

    def ask_to_end(self) -> None:
        """Accepts no further requests after a moment; a second call does not wait for answers.

        uvicorn closes idle connections without a look whether a request has arrived on them.
        Therefore it ends a little later, and until then each answer closes its connection.
        """
        app = self.config.app
        if is_ending(app):
            self.force_exit = self.should_exit = True
            return
        app.state.ending.set()
        asyncio.get_running_loop().call_later(self.last_seconds, self._end)

    def _end(self) -> None:
        self.should_exit = True


def listen(host: str, port: int, flag: str = "rest_api_port") -> socket.socket:
    """Returns a socket that is bound to a port.

    Args:
        host: name or address of an interface of this machine.
        port: number of the port; 0 chooses a free one.
        flag: flag of the port, for errors.

    Raises:
        UserError: the address cannot be used.
    """
    found = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. Otherwise the body of an answer would wait until the client has
        # confirmed the head, which it delays by 40 ms. asyncio sets it only if the socket was made
        # with the number of the protocol.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        if found is not None:
            found.close()
        raise UserError.expected(
            "a free port on an interface of this machine",
            f"{host}:{port}, {error}",
            f"Choose another --{flag} or --host",
        ) from error
    return found


def serve(
    app: FastAPI,
    connection: socket.socket,
    *,
    drain_seconds: float,
    on_start: Callable[[], None],
    head_seconds: float = _Protocol.head_seconds,
    last_seconds: float = _Server.last_seconds,
) -> None:
    """Answers requests until SIGTERM or SIGINT. Requests that have begun are answered first.

    Args:
        app: the application.
        connection: socket from `listen`.
        drain_seconds: longest time for the last answers.
        on_start: called when the server accepts requests.
        head_seconds: longest time until the head of a request has arrived.
        last_seconds: time after a signal in which further requests are still read.

    Raises:
        UserError: an interface besides HTTP cannot be opened.
    """
    protocol = type("Protocol", (_Protocol,), {"head_seconds": head_seconds})
    config = uvicorn.Config(
        app,
        http=protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=round(drain_seconds),
    )
    server = _Server(config)
    server.last_seconds = last_seconds

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.ask_to_end)
        task = asyncio.create_task(server.serve(sockets=[connection]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if app.state.failure is not None:
            server.should_exit = True
        elif server.started:
            on_start()
        await task
        if app.state.failure is not None:
            raise app.state.failure

    with no_signal_stack():
        asyncio.run(work())
