"""Sends requests that the OpenAPI document of the server describes, and broken ones.

    python tests/fuzz/api.py [--examples N] [--seed N]

The models are stand-ins. It prints the first request that is answered wrongly; the exit code is 1.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import schemathesis
from fastapi import FastAPI
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.served import served
from tests.support.speech import wav_bytes
from tests.support.spelling import HOP, PIPELINE, RATE_HZ, Spelling, sound_of
from tools.conversion.protocol import TensorSpec
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.session import SpeechSession
from tools.serving.app import create_app
from tools.serving.batching import BatchingOptions
from tools.serving.kinds import Classes
from tools.serving.repository import Repository
from tools.serving.requests import RequestLimits
from tools.serving.served_model import ServedModel
from tools.serving.server import AppOptions
from tools.speech.audio import AudioLimits
from tools.speech.long_audio import Window

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


GOOD_FILE = wav_bytes(sound_of("ABC"), RATE_HZ)


class SpellingWithTensors(Spelling):
    """A recognizer whose signature has inputs."""

    signatures = {  # noqa: RUF012 - a stand-in
        "serving_default": (
            TensorSpec("waveforms", "float32", (None, None)),
            TensorSpec("lengths", "int32", (None,)),
        )
    }


def speech_model(max_seconds: float = 10.0) -> ServedModel:
    """Returns a recognizer that spells the level of sounds.

    Args:
        max_seconds: longest sound.
    """
    session = SpeechSession(
        SpellingWithTensors(),
        CtcDecoder(PIPELINE),
        AudioLimits(max_seconds=max_seconds),
        window=Window.of_seconds(0.6, 0.2, HOP, RATE_HZ),
    )
    return ServedModel("speech", 1, session, BatchingOptions())


def open_model(name: str, version: int, folder: Path) -> ServedModel:
    """Opens a stand-in."""
    if name == "speech":
        return speech_model()
    two = Classes(("a", "b"), (0, 1), (0.75, 0.25))
    model, runner = served(name, version, run=lambda items: [two] * len(items))
    runner.pipeline["num_classes"] = 2
    runner.kind.outputs = lambda results: {"n": np.arange(len(results))}
    return model


def app_of(folder: Path) -> FastAPI:
    """Returns the application over two stand-ins: `toy` and `speech`."""
    repository = Repository(open_model, dict.fromkeys(("speech", "toy"), folder))
    repository.scan()
    options = AppOptions(aliases={"whisper-1": "speech"}, limits=RequestLimits(max_bytes=10**6))
    return create_app(repository, options)


def check(app: FastAPI, num_examples: int, seed: int) -> Iterator[str]:
    """Sends requests to each address; yields the addresses that were tried.

    Args:
        app: the application, which runs.
        num_examples: number of requests to each address.
        seed: seed of the requests.
    """
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=num_examples,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def send(case):
            # Half of the names and files are replaced by good ones.
            path, body = case.path_parameters or {}, case.body
            if len(path.get("name", "")) % 2:
                path["name"] = "toy"
            if isinstance(body, dict) and isinstance(body.get("file"), bytes):
                body["file"] = body["file"] if len(body["file"]) % 2 else GOOD_FILE
            response = case.call()
            case.validate_response(response, checks=list(CHECKS))
            if response.status_code >= 400:
                error = response.json()["error"]
                text = error if isinstance(error, str) else error["message"]
                assert text.isprintable() and "Traceback" not in text, text

        send()
        yield f"{operation.method.upper()} {operation.path}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1000, help="requests to each address")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, TestClient(app_of(Path(folder))) as client:
        for address in check(client.app, given.examples, given.seed):
            print(f"{given.examples} requests: {address}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
