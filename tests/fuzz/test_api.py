"""Requests that the OpenAPI document describes make no error and get no undocumented answer."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.fuzz.api import app_of, check

EXAMPLES, SEED = 12, 1


def test_no_request_makes_the_server_fail(tmp_path):
    with TestClient(app_of(tmp_path)) as client:
        tried = list(check(client.app, EXAMPLES, SEED))
        paths = client.app.openapi()["paths"]
    assert sorted(tried) == sorted(
        f"{method.upper()} {path}" for path, methods in paths.items() for method in methods
    )
    for path in ("/v1/audio/transcriptions", "/v1/classify", "/v1/models/{name}:predict"):
        assert f"POST {path}" in tried


def test_a_server_that_fails_is_noticed():
    app = FastAPI()

    @app.get("/bad")
    def bad():
        raise RuntimeError

    with TestClient(app, raise_server_exceptions=False), pytest.raises(BaseException) as caught:
        list(check(app, 2, SEED))
    assert not isinstance(caught.value, KeyboardInterrupt)
