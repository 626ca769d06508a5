"""The HTTP interface, over models that are stand-ins."""

import asyncio
import base64
import gc
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from tests.support.served import served
from tools.serving.app import create_app
from tools.serving.metrics import Metrics
from tools.serving.repository import Repository
from tools.serving.requests import RequestLimits
from tools.serving.server import AppOptions

PREDICT = "/v1/models/toy:predict"


@pytest.fixture
def server(tmp_path):
    """Returns a function that starts an application over one model; returns client and runner."""
    clients = []

    def start(batching=None, **options):
        metrics, runners = Metrics(), []

        def open_model(name, version, folder):
            report = metrics.batches_of(name)
            model, runner = served(name, version, report=report, **batching or {})
            metrics.watch_queue(name, model)
            runners.append(runner)
            return model

        labels = {"toy": {"stable": 1}}
        repository = Repository(open_model, {"toy": tmp_path}, labels=lambda: labels)
        repository.scan()
        client = TestClient(create_app(repository, AppOptions(**options), metrics))
        client.__enter__()
        clients.append(client)
        return client, runners[0]

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def until(holds):
    """Waits until a condition holds."""
    for _ in range(2000):
        if holds():
            return
        time.sleep(0.005)
    raise AssertionError("waited too long")


def waiting(client):
    """Returns the number of inputs in the queue."""
    (found,) = re.findall(r'enqueued{model="toy"} (\d+)', client.get("/metrics").text)
    return int(found)


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def files(*contents):
    return {"signature_name": "serve_bytes", "instances": [b64(x) for x in contents]}


def test_tensors_by_row_and_by_column(server):
    client, _ = server()
    rows = {"instances": [{"x": [1, 2], "n": 3}, {"x": [4, 5], "n": 6}]}
    found = client.post(PREDICT, json=rows)
    assert (found.status_code, found.headers["content-type"]) == (200, "application/json")
    assert found.json() == {
        "predictions": [{"y": [2.0, 4.0], "label": "n3"}, {"y": [8.0, 10.0], "label": "n6"}]
    }
    columns = {"inputs": {"x": [[1, 2]], "n": [3]}}
    found = client.post("/v1/models/toy/versions/1:predict", content=json.dumps(columns))
    assert found.json() == {"outputs": {"y": [[2.0, 4.0]], "label": ["n3"]}}
    found = client.post("/v1/models/toy/labels/stable:predict", json=columns)
    assert found.json() == {"outputs": {"y": [[2.0, 4.0]], "label": ["n3"]}}
    half = {"signature_name": "half", "instances": [3.0]}
    assert client.post(PREDICT, json=half).json() == {"predictions": [1.5]}


def test_large_answers_are_those_of_small_ones(server):
    client, _ = server()
    numbers = [float(number) for number in range(40_000)]
    body = {"signature_name": "half", "inputs": numbers}
    assert client.post(PREDICT, json=body).json() == {"outputs": [x / 2 for x in numbers]}


def test_the_content_type_is_ignored(server):
    client, _ = server()
    body = json.dumps({"signature_name": "half", "instances": [3.0]})
    found = client.post(PREDICT, content=body, headers={"Content-Type": "text/plain"})
    assert found.json() == {"predictions": [1.5]}


def test_files_of_several_requests_run_together(server):
    client, runner = server({"max_batch_size": 8})
    runner.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(client.post, PREDICT, json=files(b"b", b"c")) for _ in range(4)]
        until(lambda: sum(runner.sizes) + waiting(client) == 8)
        runner.gate.set()
        assert [x.result(20).json() for x in answers] == [{"predictions": ["b", "c"]}] * 4
    assert sum(runner.sizes) == 8 and len(runner.sizes) <= 2


def test_a_bad_file_is_refused_alone(server):
    client, _ = server()
    found = client.post(PREDICT, json=files(b"good", b"bad"))
    assert found.status_code == 400
    assert found.json() == {
        "error": "File 2: Expected a good file. Received: a bad one. Write it again."
    }
    assert client.post(PREDICT, json=files(b"good")).json() == {"predictions": ["good"]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "a JSON object"),
        (b'{"instances": [{"x": [1, 2]}]}', "x in instance 0"),
        (b'{"instances": [{"x": [1, 2], "n": -1}]}', "n >= 0"),
        (b'{"instances": [], "signature_name": "nothing"}', "signature_name among half"),
    ],
)
def test_bad_input_is_one_line(server, body, message):
    client, _ = server()
    found = client.post(PREDICT, content=body)
    assert found.status_code == 400
    assert message in found.json()["error"]
    assert found.json()["error"].isprintable()


def test_unknown_models_and_addresses(server):
    client, _ = server()
    for path in ("boat", "toy/versions/2", "boat/metadata", "toy/labels/canary"):
        path = f"/v1/models/{path}"
        found = client.get(path)
        assert (found.status_code, "toy" in found.json()["error"]) == (404, True)
    assert client.get("/v1/models/toy/versions/two").status_code == 400
    assert client.get("/v1/models/toy/versions/" + 30 * "9").status_code == 400
    assert client.post("/v1/models/boat:predict", json={}).status_code == 404
    for path in ("/nowhere", "/v1/models/..%2f..%2fetc", "/v1/models/toy:regress"):
        assert "error" in client.get(path).json()
    assert client.get(PREDICT).status_code == 404
    assert client.post("/v1/models/toy", json={}).status_code == 405


def test_status_metadata_and_aliases(server):
    client, _ = server(aliases={"whisper-1": "toy"})
    for name in ("toy", "whisper-1", "toy/versions/1", "toy/labels/stable"):
        (state,) = client.get(f"/v1/models/{name}").json()["model_version_status"]
        assert (state["version"], state["state"]) == ("1", "AVAILABLE")
    described = client.get("/v1/models/whisper-1/metadata").json()
    assert described["model_spec"]["name"] == "toy"
    signatures = described["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() == {"serving_default", "half", "serve_bytes"}


def test_a_full_queue_asks_to_try_again(server):
    client, runner = server({"max_enqueued": 2})
    runner.gate.clear()
    try:
        found = client.post(PREDICT, json=files(b"a", b"b", b"c"))
    finally:
        runner.gate.set()
    assert (found.status_code, found.headers["retry-after"]) == (503, "1")
    assert "room in the queue" in found.json()["error"]


def test_an_input_that_waits_too_long_is_refused(server):
    client, _ = server(request_seconds=-1.0)
    found = client.post(PREDICT, json=files(b"a"))
    assert (found.status_code, "longer queue" in found.json()["error"]) == (504, True)


def test_large_bodies_are_refused_before_and_while_they_come(server):
    client, _ = server(limits=RequestLimits(max_bytes=100))
    assert client.post(PREDICT, json=files(b"a")).status_code == 200
    assert client.post(PREDICT, json=files(100 * b"a")).status_code == 413

    def pieces():
        for _ in range(50):
            yield b"[[[["

    assert client.post(PREDICT, content=pieces()).status_code == 413


def test_a_slow_body_is_refused(server):
    client, _ = server(limits=RequestLimits(body_seconds=0.05))
    sent = []

    async def talk():
        async def receive():
            await asyncio.sleep(20)

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": PREDICT,
            "raw_path": PREDICT.encode(),
            "query_string": b"",
            "headers": [],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("localhost", 80),
            "root_path": "",
        }
        await client.app(scope, receive, send)

    asyncio.run(talk())
    assert sent[0]["status"] == 408


def test_keys(server):
    client, _ = server(api_keys=("one", "two"))
    path = "/v1/models/toy"
    for headers in ({}, {"Authorization": "Bearer three"}, {"X-API-Key": "on"}):
        found = client.get(path, headers=headers)
        assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")
    for headers in ({"Authorization": "Bearer one"}, {"X-API-Key": "two"}):
        assert client.get(path, headers=headers).status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_has_an_answer_without_a_body(server, path):
    client, _ = server()
    found = client.head(path)
    assert (found.status_code, found.content) == (200, b"")
    assert found.headers["content-length"] == client.get(path).headers["content-length"]


def test_web_pages_of_other_origins(server):
    client, _ = server(cors_origins=("https://a.example",))
    for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
        found = client.get("/v1/models/toy", headers={"Origin": origin})
        assert ("access-control-allow-origin" in found.headers) == allowed


def test_an_error_of_the_server_shows_no_trace(tmp_path):
    def open_model(name, version, folder):
        model, runner = served(name, version)

        def fail(*_):
            raise RuntimeError("secret")

        runner.run = fail
        return model

    repository = Repository(open_model, {"toy": tmp_path})
    repository.scan()
    with TestClient(create_app(repository), raise_server_exceptions=False) as client:
        found = client.post(PREDICT, json={"signature_name": "half", "instances": [3.0]})
        assert found.status_code == 500
        assert "secret" not in found.text and "Traceback" not in found.text
        assert client.post(PREDICT, json=files(b"good")).status_code == 200


def test_metrics_and_the_access_log_tell_no_contents(server, caplog):
    caplog.set_level("INFO", logger="tools.serving.access")
    client, _ = server()
    client.post(PREDICT, json=files(b"confidential"))
    client.post(PREDICT, content=b"{")
    client.get("/v1/models/private-name")
    client.get("/v1/models/toy/labels/secret-label")
    for made_up in ("/healthy", "/health/made-up", "/v1/modelsX", "/v1/classify/made-up"):
        client.get(made_up)
    text = client.get("/metrics").text
    assert 'requests_total{route="/v1/models/NAME:predict",status="200"} 1.0' in text
    assert 'requests_total{route="/v1/models/NAME:predict",status="400"} 1.0' in text
    assert 'batch_size_count{model="toy"} 1.0' in text
    assert 'errors_total{kind="input"} 1.0' in text
    assert 'enqueued{model="toy"} 0.0' in text
    assert 'requests_total{route="/v1/models/NAME/labels/L",status="404"} 1.0' in text
    assert 'requests_total{route="other",status="404"} 4.0' in text
    assert "private-name" not in text and "secret-label" not in text
    entries = [json.loads(x.message) for x in caplog.records if x.name == "tools.serving.access"]
    assert entries[0]["status"] == 200 and entries[0]["path"] == PREDICT
    assert "confidential" not in caplog.text


def test_the_queues_of_all_versions_count_while_they_exist():
    class Version:
        num_enqueued = 2

    metrics, old, new = Metrics(), Version(), Version()
    for version in (old, new):
        metrics.watch_queue("toy", version)
    assert b'enqueued{model="toy"} 4.0' in metrics.text()
    del old
    del version
    gc.collect()
    assert b'enqueued{model="toy"} 2.0' in metrics.text() and new


def test_health(server):
    client, _ = server()
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}
    empty = Repository(lambda *_: None)
    with TestClient(create_app(empty)) as other:
        assert other.get("/health/ready").status_code == 503
        assert other.get("/health/live").status_code == 200


def test_a_server_that_ends_answers_and_closes_connections(server):
    client, _ = server()
    assert "connection" not in client.get("/v1/models").headers
    client.app.state.ending.set()
    found = client.post(PREDICT, json=files(b"a"))
    assert (found.status_code, found.headers["connection"]) == (200, "close")
    found = client.get("/health/ready")
    assert (found.status_code, found.json()) == (503, {"status": "ending"})
    assert client.get("/health/live").status_code == 200


def test_only_classifiers_classify(server):
    client, runner = server()
    for body in ({"examples": []}, {}, {"examples": [{"x": 1}]}):
        assert client.post("/v1/models/toy:classify", json=body).status_code == 400
    runner.kind.task = "transcribe"
    found = client.post("/v1/models/toy:classify", json={"examples": [b64(b"a")]})
    assert found.json() == {
        "error": "Expected a classifier. Received: toy, which cannot classify. Use predict."
    }
