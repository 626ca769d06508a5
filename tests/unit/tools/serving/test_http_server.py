"""The server on a real port: what comes in pieces, what never comes, and the end after a signal."""

import json
import os
import signal
import socket
import threading

import pytest

from tests.support.served import served
from tools.serving.app import create_app
from tools.serving.http_server import listen, serve
from tools.serving.metrics import Metrics
from tools.serving.repository import Repository

BODY = json.dumps({"signature_name": "half", "instances": [3.0]}).encode()
HEAD = f"POST /v1/models/toy:predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n"
REQUEST = HEAD.encode() + BODY
ANSWER = b'{"predictions":[1.5]}'


class Connection:
    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=20)
        self.file = self.socket.makefile("rb")

    def send(self, content):
        self.socket.sendall(content)

    def answer(self):
        """Returns status, headers and body of the next answer; None if the connection ended."""
        line = self.file.readline()
        if not line:
            return None
        headers = {}
        while (header := self.file.readline().decode().strip()) != "":
            name, _, value = header.partition(": ")
            headers[name.lower()] = value
        body = self.file.read(int(headers.get("content-length", 0)))
        return int(line.split()[1]), headers, body

    def close(self):
        self.file.close()
        self.socket.close()


@pytest.fixture
def talk(tmp_path):
    """Returns a function that runs a conversation with a server.

    A conversation gets a function that connects, and one that ends the server by a signal.
    """

    def run(conversation, *, gate=None, drain_seconds=20.0, **options):
        def open_model(name, version, folder):
            model, runner = served(name, version)
            runner.gate = gate or runner.gate
            return model

        repository = Repository(open_model, {"toy": tmp_path})
        repository.scan()
        metrics, results = Metrics(), []

        def converse():
            connections, signaled = [], []

            def end():
                if not signaled:  # a second signal could come after the server has ended
                    signaled.append(True)
                    os.kill(os.getpid(), signal.SIGTERM)

            def connect():
                connections.append(Connection(address))
                return connections[-1]

            try:
                results.append(conversation(connect, end))
            except BaseException as error:
                results.append(error)
            finally:
                end()
                for connection in connections:
                    connection.close()

        with listen("127.0.0.1", 0) as own:
            address = own.getsockname()
            thread = threading.Thread(target=converse)
            app = create_app(repository, metrics=metrics)
            serve(app, own, drain_seconds=drain_seconds, on_start=thread.start, **options)
            thread.join(20)
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0], metrics.text().decode()

    return run


def test_small_pieces_of_answers_are_sent_at_once():
    with listen("127.0.0.1", 0) as own:
        own.listen()
        with socket.create_connection(own.getsockname()), own.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_connection_is_kept_and_requests_come_in_pieces(talk):
    def conversation(connect, end):
        connection, found = connect(), []
        connection.send(REQUEST)
        found.append(connection.answer())
        for place in range(0, len(REQUEST), 40):
            connection.send(REQUEST[place : place + 40])
        found.append(connection.answer())
        connection.send(2 * REQUEST)
        return [*found, connection.answer(), connection.answer()]

    found, _ = talk(conversation)
    assert [(status, body) for status, _, body in found] == 4 * [(200, ANSWER)]


def test_a_head_that_does_not_end_is_refused(talk):
    def conversation(connect, end):
        new, used, found = connect(), connect(), []
        used.send(REQUEST)
        found.append(used.answer()[0])
        for connection in (new, used):
            connection.send(REQUEST[:30])
        for connection in (new, used):
            found += [connection.answer()[0], connection.answer()]
        other = connect()
        other.send(REQUEST)
        return [*found, other.answer()[0]]

    found, _ = talk(conversation, head_seconds=0.1)
    assert found == [200, 408, None, 408, None, 200]


def test_a_client_that_hangs_up_is_no_error_of_the_server(talk, caplog):
    def conversation(connect, end):
        gone = connect()
        gone.send(REQUEST[:-5])
        gone.close()
        other = connect()
        while True:
            other.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            if b'route="/v1/models/NAME:predict"' in other.answer()[2]:  # it has ended
                break
        other.send(REQUEST)
        return other.answer()[0]

    found, text = talk(conversation)
    assert found == 200
    assert 'requests_total{route="/v1/models/NAME:predict",status="499"} 1.0' in text
    assert 'errors_total{kind="gone"} 1.0' in text
    assert "Traceback" not in caplog.text


def test_what_was_sent_before_the_signal_is_answered(talk):
    def conversation(connect, end):
        idle, used, begun = connect(), connect(), connect()
        used.send(REQUEST)
        assert used.answer()[0] == 200
        begun.send(REQUEST[:-5])
        used.send(REQUEST)
        end()
        found = [used.answer()]
        begun.send(REQUEST[-5:])
        return [*found, begun.answer(), idle.answer()]

    (used, begun, idle), _ = talk(conversation)
    assert used[::2] == begun[::2] == (200, ANSWER)
    assert idle is None


def test_requests_that_come_with_the_signal_are_answered(talk):
    def conversation(connect, end):
        used = connect()
        used.send(REQUEST)
        assert used.answer()[0] == 200
        end()
        status = 200
        while status != 503:  # the signal has been handled
            other = connect()
            other.send(b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n")
            status = other.answer()[0]
        used.send(REQUEST)
        return used.answer()

    found, _ = talk(conversation, last_seconds=1.0)
    assert found[::2] == (200, ANSWER)
    assert found[1]["connection"] == "close"


def test_what_takes_longer_than_the_end_is_asked_to_come_again(talk, caplog):
    gate = threading.Event()

    def conversation(connect, end):
        slow = connect()
        slow.send(REQUEST)
        end()
        try:
            return slow.answer()
        finally:
            gate.set()

    (status, headers, body), text = talk(conversation, gate=gate, drain_seconds=0.0)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "Expected a server that runs. Received: one that ends." in json.loads(body)["error"]
    assert 'requests_total{route="/v1/models/NAME:predict",status="503"} 1.0' in text
    assert "Traceback" not in caplog.text


def test_no_http_is_refused(talk):
    def conversation(connect, end):
        found = []
        for content in (b"hello\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n"):
            connection = connect()
            connection.send(content)
            found.append(connection.answer()[0])
        return found

    assert talk(conversation)[0] == [400, 400]
