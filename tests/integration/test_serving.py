"""The server as a process, and the clients that people have."""

import base64
import os
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import psutil
import pytest
import soundfile

import conformer
import vision
from tests.support.errors import refused
from tests.support.spelling import PIPELINE, Spelling
from tools.benchmark.server_process import ServerProcess
from tools.cli import serve
from tools.errors import UserError
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.session import SpeechSession
from tools.serving import http_server
from tools.speech.audio import AudioLimits

DIGITS = "conformer/pretrained/digits"
TEXT = "ONE SEVEN NINE ZERO"


@pytest.fixture(scope="module")
def server(project):
    """The bundled models under their names, and whisper-1."""
    for family in (conformer, vision):  # convert once for all workers
        family.load(batch_size=16).close()
    with ServerProcess(project, "--alias=whisper-1=conformer") as running:
        yield running


@pytest.fixture(scope="module")
def sample(project):
    return (project / DIGITS / "sample.flac").read_bytes()


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def test_tensorflow_servings_client_gets_what_the_session_says(server, sample, project):
    body = {
        "signature_name": "serve_bytes",
        "instances": [{"b64": base64.b64encode(sample).decode()}],
    }
    (found,) = server.post("/v1/models/conformer:predict", body)["predictions"]
    assert found["text"] == TEXT
    image = (project / "vision/pretrained/photos/curve.png").read_bytes()
    examples = {"examples": [{"bytes": {"b64": base64.b64encode(image).decode()}}]}
    (classes,) = server.post("/v1/models/photos:classify", examples)["result"]
    assert len(classes) == 6
    assert sum(probability for _, probability in classes) == pytest.approx(1.0, abs=1e-5)
    assert classes == sorted(classes, key=lambda pair: -pair[1])


@pytest.mark.parametrize("signature", ["serving_default", "listen"])
@pytest.mark.parametrize("length", [8001, -1])
def test_lengths_outside_of_the_samples_are_refused(server, signature, length):
    rows = [{"waveforms": [0.1] * 8000, "lengths": length}]
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        server.post(
            "/v1/models/conformer:predict", {"signature_name": signature, "instances": rows}
        )
    assert "lengths from 0 to 8000, the size of waveforms" in caught.value.read().decode()


def test_the_openai_package_works_as_it_is(client, sample):
    file = ("a.flac", sample)
    model = "whisper-1"
    hint = {"prompt": "Seven, nine; Kubernetes.", "language": "en"}
    assert client.audio.transcriptions.create(model=model, file=file, **hint).text == TEXT
    assert client.audio.transcriptions.create(model=model, file=file).text == TEXT
    told = client.audio.transcriptions.create(
        model=model, file=file, response_format="text", temperature=0.0
    )
    assert told.strip() == TEXT
    verbose = client.audio.transcriptions.create(
        model=model,
        file=file,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert [word.word for word in verbose.words] == TEXT.split()
    times = [time for word in verbose.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= verbose.duration
    assert verbose.segments[0].text.strip() == TEXT
    stream = client.audio.transcriptions.create(model=model, file=file, stream=True)
    found = list(stream)
    assert "".join(event.delta for event in found[:-1]) == found[-1].text == TEXT
    assert {row.id for row in client.models.list()} == {"conformer", "photos", "whisper-1"}


def test_the_openai_package_names_the_error(client, sample):
    for error, model, content, others in (
        (openai.NotFoundError, "nothing", sample, {}),
        (openai.BadRequestError, "photos", sample, {}),
        (openai.BadRequestError, "conformer", b"no sound", {}),
        (openai.BadRequestError, "conformer", b"", {}),
        (openai.BadRequestError, "conformer", sample, {"language": "de"}),
    ):
        with pytest.raises(error, match="Expected"):
            client.audio.transcriptions.create(model=model, file=("a.wav", content), **others)


def test_a_long_recording_is_transcribed_whole(client, sample, tmp_path):
    path = tmp_path / "sample.flac"
    path.write_bytes(sample)
    sound, rate_hz = soundfile.read(path)
    piece = np.concatenate([sound, np.zeros(rate_hz // 2)])
    repeats = 70
    assert repeats * len(piece) > 120 * rate_hz  # twice the model's limit
    for subtype in ("PCM_16", "DOUBLE"):  # kept in memory, and written to a file
        long = tmp_path / "long.wav"
        soundfile.write(long, np.tile(piece, repeats), rate_hz, subtype=subtype)
        with open(long, "rb") as file:
            stream = client.audio.transcriptions.create(model="conformer", file=file, stream=True)
            *deltas, done = stream
        assert done.text.split() == repeats * TEXT.split()
        assert "".join(event.delta for event in deltas) == done.text
    with open(long, "rb") as file:
        told = client.audio.transcriptions.create(model="conformer", file=file)
    assert told.text == done.text


def test_many_clients_at_once_all_get_the_right_answer(server, client, sample):
    silence = (
        b"RIFF\x24\x7d\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\x7d\0\0"
    )
    silence += bytes(32000)

    def ask(number):
        content = (sample, silence, b"no sound")[number % 3]
        try:
            return client.audio.transcriptions.create(model="conformer", file=("a", content)).text
        except openai.BadRequestError:
            return "refused"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(48)))
    assert found == [(TEXT, "", "refused")[number % 3] for number in range(48)]
    assert b'batch_size_sum{model="conformer"}' in server.get("/metrics")


def test_no_tensorflow_is_loaded(server):
    with open(f"/proc/{server.pid}/maps") as maps:
        assert "site-packages/tensorflow/" not in maps.read()


def test_sigterm_answers_what_has_begun(project, sample):
    flags = (f"conformer={project / DIGITS}", "--batch_timeout_ms=1500")
    body = {
        "signature_name": "serve_bytes",
        "instances": [{"b64": base64.b64encode(sample).decode()}],
    }
    with ServerProcess(project, *flags) as running, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(running.post, "/v1/models/conformer:predict", body)
        while b'enqueued{model="conformer"} 1' not in running.get("/metrics"):
            assert not answer.done()
        code = running.end()
        assert answer.result(60)["predictions"][0]["text"] == TEXT
    assert code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host=0.0.0.0", "a=/nowhere"], "--api_key_file"),
        (["--max_batch_size=0"], "--max_batch_size >= 1"),
        (["--model_root=/nowhere"], "--model_root"),
        (["conformer"], "NAME=DIR"),
        (["a/b=conformer"], "NAME=DIR"),
        (["a=/nowhere", "--rest_api_port=0"], "models that can be loaded"),
        (["--api_key_file=/nowhere"], "--api_key_file"),
        (["--rest_api_port=99999999"], "a free port"),
        (["--alias=whisper-1"], "--alias NAME=MODEL"),
        (["--alias=a=b,a=c", "b=x", "c=x"], "--alias NAME=MODEL, each name once"),
        (["--alias=a=b,b=a", "m=x"], "a new name and the name of a model. Received: a=b"),
        (["--alias=a=nothing", "m=x"], "a new name and the name of a model. Received: a=nothing"),
        (["--alias=m=n", "m=x", "n=x"], "a new name and the name of a model. Received: m=n"),
        (["--alias=cli=m", "--model_root=tools", "m=x"], "a new name and the name of a model"),
        (["m=x", "m=y"], "models as NAME=DIR, each name once. Received: m twice"),
        (["--model_root=docs", "--rest_api_port=0"], "folders NAME/VERSION/ in --model_root"),
        (["--warm_up_seconds=3"], "--warm_up_seconds SHORTEST:LONGEST"),
        (["--workers=0"], "--workers >= 1"),
        (["--port=-1"], "--port >= 0"),
        (["--port=99999999"], "--port or --host"),
        (["--port=8501"], "other than --rest_api_port"),
        (["--version_labels=conformer=3"], "NAME:LABEL=VERSION"),
        (["--max_seconds=0"], "--max_seconds > 0"),
    ],
)
def test_bad_flags_are_one_line(flags, message, monkeypatch):
    monkeypatch.setattr(http_server, "serve", lambda *_, **__: pytest.fail("serves"))
    with refused(message):
        serve.main(flags)


@pytest.mark.parametrize(
    ("flags", "seconds"),
    [
        ([], 14400.0),
        (["--max_seconds=60"], 60.0),
        (["--enable_dim_range=0"], None),
        (["--enable_dim_range=0", "--max_seconds=5"], 5.0),
    ],
)
def test_the_longest_sound(flags, seconds, monkeypatch):
    asked = []

    def open_session(folder, options):
        asked.append(options.max_seconds)
        raise UserError("no model")

    monkeypatch.setattr(serve.families, "open_session", open_session)
    with refused("models that can be loaded"):
        serve.main(["--rest_api_port=0", "a=folder", *flags])
    assert asked == [seconds]


def test_models_are_warm_before_the_server_answers(monkeypatch):
    runner = Spelling()
    runner.expect = lambda name, lengths: [max(lengths)]

    def open_session(folder, options):
        return SpeechSession(runner, CtcDecoder(PIPELINE), AudioLimits())

    monkeypatch.setattr(serve.families, "open_session", open_session)
    begun = []
    monkeypatch.setattr(http_server, "serve", lambda *_, **__: begun.extend(runner.batches))
    flags = ["a=folder", "--rest_api_port=0", "--max_batch_size=2", "--warm_up_seconds=0.1:0.2"]
    assert serve.main(flags) == 0
    assert begun == [[3200, 3200], [3200]]
    runner.batches.clear()
    assert serve.main(flags[:-1]) == 0
    assert runner.batches == []


def test_several_processes_share_the_port_and_their_counts(project, sample):
    body = {
        "signature_name": "serve_bytes",
        "instances": [{"b64": base64.b64encode(sample).decode()}],
    }
    with ServerProcess(project, f"conformer={project / DIGITS}", "--workers=2") as running:
        processes = {child.pid for child in psutil.Process(running.pid).children()}
        assert len(processes) == 2
        for _ in range(4):
            found = running.post("/v1/models/conformer:predict", body)["predictions"]
            assert found[0]["text"] == TEXT
        text = running.get("/metrics").decode()
        assert 'requests_total{route="/v1/models/NAME:predict",status="200"} 4.0' in text
        assert 'batch_size_sum{model="conformer"} 4.0' in text
        assert 'enqueued{model="conformer"} 0.0' in text
        assert running.end() == 0
    assert not any(psutil.pid_exists(pid) for pid in processes)


def test_counts_are_shared_before_anything_imports_their_package(monkeypatch):
    folders = []
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")

    def listen(*_):
        folders.append(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        raise UserError("a taken port")

    monkeypatch.setattr(http_server, "listen", listen)
    monkeypatch.setattr(serve, "find_spec", lambda name: object())
    with pytest.raises(UserError, match="a taken port"):
        serve.main(["--workers=2", "--port=8500"])
    assert len(folders) == 1 and folders[0]


def test_without_the_packages_of_grpc_its_port_is_refused(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with refused("bash run_scripts/setup.sh --grpc"):
        serve.main(["--port=8500"])
