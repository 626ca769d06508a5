"""The benchmark of the server: its clients, over a server whose answers are known."""

import asyncio
import json
import threading

import pytest

from tests.support.errors import refused
from tools.benchmark import serving
from tools.benchmark.serving_load import (
    NO_ANSWER,
    as_fast_as_possible,
    at_rate,
    predict_request,
    text_of,
)


class FakeServer:
    """Answers the n-th request with a function of n: status and text, or None to hang up."""

    def __init__(self, answer):
        self._answer, self.requests, self.connections = answer, [], 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._talk, "127.0.0.1", 0)
        )
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _talk(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = head.lower().split("content-length: ")[1].split("\r\n")[0]
                body = json.loads(await reader.readexactly(int(length)))
                self.requests.append((head.split("\r\n")[0], body))
                found = self._answer(len(self.requests) - 1)
                if found is None:
                    break
                status, text = found
                content = json.dumps({"predictions": [{"text": text}]}).encode()
                head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n"
                writer.write(head.encode() + content)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    def close(self):
        async def end():
            self._server.close()
            await asyncio.sleep(0.05)  # the connections of the clients have been closed

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


@pytest.fixture
def fake():
    """Returns a function that starts a server."""
    made = []

    def start(answer=lambda number: (200, str(number))):
        made.append(FakeServer(answer))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_clients_keep_their_connections_and_answers_their_numbers(fake):
    server = fake()
    requests = [predict_request(server.address, "toy", f"{n}".encode()) for n in range(12)]
    found = as_fast_as_possible(server.address, iter(requests), 3)
    assert sorted(answer.number for answer in found) == list(range(12))
    assert server.connections == 3
    assert {line for line, _ in server.requests} == {"POST /v1/models/toy:predict HTTP/1.1"}
    assert sorted(text_of(answer) for answer in found) == sorted(map(str, range(12)))
    assert all(answer.status == 200 and answer.seconds > 0 for answer in found)


def test_refusals_and_lost_answers_are_kept(fake):
    server = fake(lambda number: {1: (503, ""), 2: None}.get(number, (200, "a")))
    requests = [predict_request(server.address, "toy", b"a")] * 5
    seen = []
    found = as_fast_as_possible(server.address, iter(requests), 1, seen.append)
    assert [answer.status for answer in found] == [200, 503, NO_ANSWER, 200, 200]
    assert seen == found and server.connections == 2


def test_requests_at_a_rate_are_all_sent(fake):
    server = fake()
    requests = [predict_request(server.address, "toy", b"a")] * 20
    found = at_rate(server.address, requests, 2, per_second=1000.0, seed=1)
    assert sorted(answer.number for answer in found) == list(range(20))
    assert server.connections == 2
    due = [answer.sent for answer in sorted(found)]
    assert due == sorted(due)  # latencies count from these times


def test_sounds_have_different_lengths_and_are_the_same_each_time():
    found = serving.sounds(0.3, 1.0)
    assert found == serving.sounds(0.3, 1.0)
    lengths = sorted(map(len, found))
    assert len(set(found)) == 64 and lengths[-1] > 3 * lengths[0]


@pytest.mark.parametrize(
    ("name", "value", "is_met"),
    [
        ("throughput_ratio", 0.7, True),
        ("throughput_ratio", 0.69, False),
        ("p95_ratio", 3.0, True),
        ("p95_ratio", 3.1, False),
        ("lost", 0, True),
        ("lost", 1, False),
    ],
)
def test_targets(name, value, is_met):
    assert serving.met(name, value) == is_met


@pytest.mark.parametrize("flag", ["--figures=speed", "more", "--json={folder}"])
def test_bad_flags_are_one_line(flag, tmp_path, monkeypatch):
    monkeypatch.setattr(serving.conformer, "load", lambda *_, **__: pytest.fail("measures"))
    flag = flag.format(folder=tmp_path)
    with refused(flag.rpartition("=")[2]):
        serving.main([flag])
