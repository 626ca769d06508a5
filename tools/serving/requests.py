"""What every request of the server passes: limits, keys, metrics, the access log, errors."""

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse

from tools.files import to_json
from tools.serving.metrics import Metrics

_RETRY_SECONDS = 1
_access = logging.getLogger("tools.serving.access")
_OPEN_PATHS = ("/", "/health/live", "/health/ready")  # need no key
_OPEN_FOLDER = "/page/"  # neither do the files of the page, which asks for the key
_COUNTED = re.compile(
    r"/v1/models(/NAME(/versions/N|/labels/L)?(:predict|:classify|/metadata)?)?"
    r"|/v1/audio/transcriptions|/v1/classify|/v1/activation_map|/health/(live|ready)"
)
_NUMBERS = re.compile(r"/versions/\d+")
_LABELS = re.compile(r"/labels/[^/:]+")
_MODEL = re.compile(r"(?<=/v1/models/)[^/:]+")


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: one clear line; characters that cannot be printed are escaped.
        kind: kind of the error, for the metrics.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, message: str, kind: str, headers: dict[str, str] | None = None):
        message = "".join(x if x.isprintable() else ascii(x)[1:-1] for x in message)
        super().__init__(message)
        self.status, self.message, self.kind, self.headers = status, message, kind, headers or {}


def later(expected: str, received: str, kind: str) -> Refusal:
    """Returns a refusal of a request that may succeed when it is sent again (503).

    Args:
        expected: what the request needs.
        received: what there is.
        kind: kind of the error, for the metrics.
    """
    message = f"Expected {expected}. Received: {received}. Try again later."
    return Refusal(503, message, kind, {"Retry-After": str(_RETRY_SECONDS)})


def ending() -> Refusal:
    """Returns the refusal of a request that the server does not answer before its end (503)."""
    return later("a server that runs", "one that ends", "ends")


def error_answer(path: str, refusal: Refusal) -> JSONResponse:
    """Returns the answer for a refusal, in the form of the interface that was called.

    Args:
        path: path of the request.
        refusal: status and message.
    """
    error: Any = refusal.message
    if path.startswith("/v1/audio/"):
        error = openai_error(refusal)
    return JSONResponse({"error": error}, refusal.status, headers=refusal.headers)


def openai_error(refusal: Refusal) -> dict[str, str | None]:
    """Returns the description of an error in the form of OpenAI's interface.

    Args:
        refusal: status and message.
    """
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {"message": refusal.message, "type": kind, "param": None, "code": refusal.kind}


def is_ending(app: Starlette) -> bool:
    """Returns whether the server ends: it answers what comes, and soon accepts no connections.

    Args:
        app: the application.
    """
    return app.state.ending.is_set()


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of a request.

    Attributes:
        max_bytes: largest body.
        body_seconds: longest time until the whole body has arrived.
    """

    max_bytes: int = 256 * 1024 * 1024
    body_seconds: float = 60.0


class Keys:
    """The API keys that are accepted.

    Args:
        keys: the keys; empty: no key is needed.
    """

    def __init__(self, keys: Sequence[str] = ()):
        self._keys = [key.encode() for key in keys]

    def check(self, authorization: bytes, api_key: bytes) -> None:
        """Checks the key of a request.

        Args:
            authorization: the header Authorization.
            api_key: the header X-API-Key.

        Raises:
            Refusal: there is no key, or another one (401).
        """
        if not self._keys:
            return
        given = authorization[7:] if authorization[:7].lower() == b"bearer " else api_key
        # All keys are compared, in a time that does not depend on the key.
        if not any([hmac.compare_digest(given, key) for key in self._keys]):
            raise Refusal(
                401,
                "Expected an API key in the header Authorization: Bearer KEY. Received: "
                f"{'another one' if given else 'none'}. Send a key of this server.",
                "key",
                {"WWW-Authenticate": "Bearer"},
            )


def log_access(facts: Mapping[str, object], seconds: float, num_bytes: int) -> None:
    """Writes a line of the access log.

    Args:
        facts: what was asked for and the status.
        seconds: time until the answer.
        num_bytes: length of the answer.
    """
    rest = {"milliseconds": round(1000 * seconds, 1), "bytes": num_bytes}
    _access.info("%s", to_json({**facts, **rest}))


class Gate:
    """ASGI middleware: checks the key, limits the body, counts and logs the request.

    Args:
        app: the application.
        limits: limits of the body.
        metrics: counts of requests and errors.
        keys: the keys that are accepted.
    """

    def __init__(self, app, limits: RequestLimits, metrics: Metrics, keys: Keys):
        self._app, self._limits, self._metrics, self._keys = app, limits, metrics, keys

    async def __call__(self, scope, receive, send):
        """Handles a connection; see the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"]
        status, length, is_counted, has_begun = 500, 0, False, False

        def count() -> None:
            nonlocal is_counted
            if not is_counted:
                is_counted, seconds = True, time.perf_counter() - started
                self._metrics.request(_route(path), str(status), seconds)
                facts = {"method": scope["method"], "path": path, "status": status}
                log_access(facts, seconds, length)

        async def counted(message):
            nonlocal status, length, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                if is_ending(scope["app"]):  # so that the client sends no more over it
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            elif message["type"] == "http.response.body":
                length += len(message.get("body", b""))
                if not message.get("more_body", False):
                    count()  # before the client has the whole answer
            await send(message)

        try:
            self._check_key(scope)
            await self._app(scope, self._limited(scope, receive, started), counted)
        except Refusal as refusal:  # before the application has begun an answer
            await self._refuse(refusal, path, scope, counted)
        except asyncio.CancelledError:  # the time for the last answers is over
            if not is_ending(scope["app"]):
                raise
            if not has_begun:
                await self._refuse(ending(), path, scope, counted)
        finally:
            count()

    async def _refuse(self, refusal: Refusal, path: str, scope, send) -> None:
        self._metrics.error(refusal.kind)
        await error_answer(path, refusal)(scope, None, send)

    def _check_key(self, scope) -> None:
        path = scope["path"]
        is_open = path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER)
        if not is_open and scope["method"] != "OPTIONS":
            headers = dict(scope["headers"])
            self._keys.check(headers.get(b"authorization", b""), headers.get(b"x-api-key", b""))

    def _limited(self, scope, receive, started: float):
        """Returns a `receive` that refuses bodies which are too long or too slow."""
        most = self._limits.max_bytes
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > most:
            raise _too_large(most)
        end, received, ended = started + self._limits.body_seconds, 0, False

        async def limited():
            nonlocal received, ended
            if ended:
                return await receive()
            try:
                left = max(end - time.perf_counter(), 0.0)
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                seconds = self._limits.body_seconds
                raise Refusal(
                    408,
                    f"Expected the whole request within {seconds:g} s. Received: {received} bytes. "
                    "Send it faster.",
                    "slow",
                ) from None
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            ended = not message.get("more_body", False)
            return message

        return limited


def _too_large(most: int) -> Refusal:
    return Refusal(
        413,
        f"Expected a request of at most {most} bytes. Received: more. Send a smaller one.",
        "size",
        {"Connection": "close"},
    )


def _route(path: str) -> str:
    """Returns the path without names and numbers, so that metrics have few labels."""
    path = _NUMBERS.sub("/versions/N", _MODEL.sub("NAME", path))
    path = _LABELS.sub("/labels/L", path)
    return path if _COUNTED.fullmatch(path) else "other"
