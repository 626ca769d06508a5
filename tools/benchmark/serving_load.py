"""Clients that load the server, over sockets with little work of their own."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from tools.files import to_json

NO_ANSWER = 0  # as a status: the connection ended before the whole answer came
_AFTER_REFUSAL_SECONDS = 0.05
BUSY = 503


class Answer(NamedTuple):
    """An answer of the server.

    Attributes:
        number: number of the request.
        status: HTTP status, or `NO_ANSWER`.
        body: body of the answer.
        sent: time when the request was sent, or was due in `at_rate`, in seconds.
        received: time when the answer was complete, in seconds.
    """

    number: int
    status: int
    body: bytes
    sent: float
    received: float

    @property
    def seconds(self) -> float:
        """Latency."""
        return self.received - self.sent


def predict_request(address: str, model: str, content: bytes) -> bytes:
    """Returns a request to `:predict` with a file.

    Args:
        address: address of the server.
        model: name of the model.
        content: the file.
    """
    body = {
        "signature_name": "serve_bytes",
        "instances": [{"b64": base64.b64encode(content).decode()}],
    }
    return _post(address, f"/v1/models/{model}:predict", to_json(body).encode())


def text_of(answer: Answer) -> str:
    """Returns the text in an answer to `predict_request`."""
    return json.loads(answer.body)["predictions"][0]["text"]


def _post(address: str, path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Client:
    """A client with one connection, which it keeps open."""

    def __init__(self, address: str):
        parts = urlsplit(address)
        self._place = parts.hostname, parts.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, number: int, request: bytes, due: float | None = None) -> Answer:
        """Sends a request and returns the answer."""
        sent = time.perf_counter() if due is None else due
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._place)
            status, body = await self._exchange(request)
        except (OSError, EOFError):
            self.close()
            status, body = NO_ANSWER, b""
        return Answer(number, status, body, sent, time.perf_counter())

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        fields = dict(
            line.split(b": ", 1) for line in head.rstrip().split(b"\r\n")[1:] if b": " in line
        )
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        if fields.get(b"connection") == b"close":
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def _all_at_once(
    address: str, requests: Iterator[tuple[int, bytes]], num_clients: int, keep: Callable
) -> None:
    async def work() -> None:
        client = _Client(address)
        try:
            for number, request in requests:
                answer = await client.ask(number, request)
                keep(answer)
                if answer.status == BUSY:
                    await asyncio.sleep(_AFTER_REFUSAL_SECONDS)
        finally:
            client.close()

    await asyncio.gather(*(work() for _ in range(num_clients)))


def as_fast_as_possible(
    address: str,
    requests: Iterator[bytes],
    num_clients: int,
    keep: Callable[[Answer], None] = lambda answer: None,
) -> list[Answer]:
    """Sends requests over several connections, each as soon as the answer before has come.

    Args:
        address: address of the server.
        requests: the requests. They are drawn one by one, so that a generator can end early.
        num_clients: number of connections.
        keep: called with each answer.

    Returns:
        The answers, in the order in which they came.
    """
    answers: list[Answer] = []

    def keep_all(answer: Answer) -> None:
        answers.append(answer)
        keep(answer)

    asyncio.run(_all_at_once(address, enumerate(requests), num_clients, keep_all))
    return answers


def at_rate(
    address: str, requests: Sequence[bytes], num_clients: int, *, per_second: float, seed: int
) -> list[Answer]:
    """Sends requests at random times with a mean rate, whether or not earlier answers have come.

    The latencies count from the time when a request was due, also if all connections were busy.

    Args:
        address: address of the server.
        requests: the requests.
        num_clients: number of connections.
        per_second: mean rate; the gaps are exponentially distributed.
        seed: seed of the gaps.

    Returns:
        The answers, in the order in which they came.
    """
    gaps = np.random.default_rng(seed).exponential(1 / per_second, len(requests))
    answers: list[Answer] = []

    async def work() -> None:
        free: asyncio.Queue[_Client] = asyncio.Queue()
        for _ in range(num_clients):
            free.put_nowait(_Client(address))
        started = time.perf_counter()

        async def ask(number: int, due: float) -> None:
            await asyncio.sleep(due - time.perf_counter())
            client = await free.get()
            answers.append(await client.ask(number, requests[number], due))
            free.put_nowait(client)

        times = started + np.cumsum(gaps)
        await asyncio.gather(*(ask(number, due) for number, due in enumerate(times.tolist())))
        while not free.empty():
            free.get_nowait().close()

    asyncio.run(work())
    return answers
