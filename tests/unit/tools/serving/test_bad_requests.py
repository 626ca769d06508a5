"""Bad requests: the right status, one clear line, and no effect on the next request."""

import base64
import json
import re

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.fuzz.api import GOOD_FILE, app_of
from tests.support.speech import wav_bytes
from tests.support.spelling import RATE_HZ

TRANSCRIBE, PREDICT = "/v1/audio/transcriptions", "/v1/models/speech:predict"
FORM = "multipart/form-data; boundary=xyz"
FILE = 'name="file"; filename="a"'
# A header that announces 37 hours.
LONG_HEADER = GOOD_FILE[:40] + b"\xf0\xff\xff\x7f" + GOOD_FILE[44:]
TOO_LONG = wav_bytes(np.zeros(11 * RATE_HZ, np.float32), RATE_HZ)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    app = app_of(tmp_path_factory.mktemp("models"))
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


def form(*parts):
    pieces = [
        f"--xyz\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    ]
    return b"".join(pieces) + b"--xyz--\r\n"


def transcribe(client, *parts, kind=FORM):
    content = parts[0] if isinstance(parts[0], bytes) else form(*parts)
    return client.post(TRANSCRIBE, content=content, headers={"Content-Type": kind})


def check(found, status):
    assert found.status_code == status, found.text[:300]
    error = found.json()["error"]
    text = error if isinstance(error, str) else error["message"]
    assert text.isprintable() and len(text) < 500 and "Traceback" not in text


def serve_bytes(content):
    encoded = base64.b64encode(content).decode()
    return json.dumps({"signature_name": "serve_bytes", "instances": [{"b64": encoded}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        '{"instances": [1]}'.encode("utf-16"),
        b'{"instances": [NaN]}',
        b'{"instances": ' + 100_000 * b"[",
        b'{"instances": ' + 900 * b"[" + 900 * b"]" + b"}",
        b'{"inputs": ' + 900 * b'{"a": ' + b"1" + 901 * b"}",
        b'{"instances": [{"' + 5000 * b"a" + b'": 1}]}',
        b'{"instances": [1' + 5000 * b"0" + b"]}",
        b'{"inputs": {"waveforms": [["a"]], "lengths": [1]}}',
        b'{"inputs": {"waveforms": [[0.1, 0.1]], "lengths": [1.5]}}',
        b'{"signature_name": ["a"], "instances": [1]}',
        b'{"signature_name": [], "inputs": {"waveforms": [[0.1, 0.1]], "lengths": [2]}}',
        serve_bytes(b"no sound"),
        serve_bytes(b""),
        serve_bytes(TOO_LONG),
    ],
)
def test_bad_bodies(client, body):
    check(client.post(PREDICT, content=body), 400)
    assert client.post(PREDICT, content=serve_bytes(GOOD_FILE)).status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        'name="file"; filename="../../etc/passwd"',
        'name="file"; filename="a\\"b.wav"',
        'name="file"; filename="\0"',
        'name="file"; filename=""',
    ],
)
def test_odd_names_of_files_do_not_matter(client, head):
    found = transcribe(client, (head, GOOD_FILE))
    assert (found.status_code, found.json()["text"]) == (200, "ABC")


def test_a_header_that_announces_too_much_is_not_believed(client):
    assert transcribe(client, (FILE, LONG_HEADER)).json()["text"] == "ABC"
    found = client.post(PREDICT, content=serve_bytes(LONG_HEADER))
    assert found.json() == {"predictions": ["ABC"]}


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([('name="file"', b"text")], 400),
        ([('filename="a"', GOOD_FILE)], 400),
        ([(FILE, GOOD_FILE), (FILE, GOOD_FILE)], 400),
        ([*((f'name="f{n}"', b"x") for n in range(100)), (FILE, GOOD_FILE)], 400),
        ([('name="model"', b"../../etc/passwd"), (FILE, GOOD_FILE)], 404),
        ([('name="model"', b"\xff\xfe\0"), (FILE, GOOD_FILE)], 404),
        ([('name="model"', b"toy"), (FILE, GOOD_FILE)], 400),
        ([('name="prompt"', 5000 * b"a"), (FILE, GOOD_FILE)], 400),
        ([(FILE, b"")], 400),
        ([(FILE, TOO_LONG)], 400),
        ([(FILE, GOOD_FILE[:30])], 400),
        ([b""], 400),
        ([b"--xyz--\r\n"], 400),
        ([(f'name="file"; filename="{5000 * "a"}"', GOOD_FILE)], 400),
        ([("name=\"file\"; filename*=UTF-8''%ff%fe", GOOD_FILE)], 400),
        ([2_000_000 * b"a"], 413),
    ],
)
def test_bad_forms(client, parts, status):
    check(transcribe(client, *parts), status)
    assert transcribe(client, (FILE, GOOD_FILE)).status_code == 200


@pytest.mark.parametrize(
    "parts",
    [[(FILE, GOOD_FILE)] * 2, [(f'name="f{n}"', b"x") for n in range(100)], [b"--abc\r\n"]],
)
def test_what_is_wrong_with_a_form_is_told_and_counted(client, parts):
    def count():
        (found,) = re.findall(r'errors_total{kind="form"} (\d+)', client.get("/metrics").text)
        return int(found)

    transcribe(client, ('name="model"', b"speech"))  # without a file: counted, too
    before = count()
    error = transcribe(client, *parts).json()["error"]
    assert error["message"].startswith("Expected a form with one file and at most 50 fields.")
    assert (error["code"], count()) == ("form", before + 1)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=other",
        "application/x-www-form-urlencoded",
        "text/plain",
    ],
)
def test_other_content_types_of_forms(client, kind):
    check(transcribe(client, (FILE, GOOD_FILE), kind=kind), 400)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("/page/..%2f..%2fserver.py", 404),
        ("/v1/models/%00", 404),
        ("/v1/models/%ff%fe", 404),
        ("/v1/models/toy/versions/999", 404),
        ("/v1/models/toy/versions/-1", 400),
        ("/v1/models/toy/labels/none", 404),
        (f"/v1/models/{20_000 * 'a'}", 404),
    ],
)
def test_bad_addresses(client, path, status):
    check(client.get(path), status)


def test_bad_methods(client):
    check(client.delete("/v1/models/toy"), 405)
