"""The HTTP application: TensorFlow Serving's REST interface, health and metrics."""

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tools.errors import UserError
from tools.files import to_json
from tools.serving.kinds import Classes
from tools.serving.metrics import CONTENT_TYPE, Metrics
from tools.serving.page import page_routes
from tools.serving.repository import Repository
from tools.serving.requests import Gate, Keys, Refusal, error_answer, is_ending
from tools.serving.served_model import SERVE_BYTES, ServedModel
from tools.serving.server import AppOptions, Server
from tools.serving.tf_serving import (
    metadata_answer,
    parse_json,
    predict_answer,
    predict_request,
    status_answer,
)
from tools.serving.uploads import upload_routes

# Opens an interface to the models until the end of a `with` statement.
Service = Callable[[Server], contextlib.AbstractAsyncContextManager[None]]
Result = TypeVar("Result")
_SMALL_BYTES = 128 * 1024
_NAMES = re.compile(r"{(\w+)}")
_ERROR = {
    "description": "One clear line in `error`.",
    "content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}},
}


def create_app(
    repository: Repository,
    options: AppOptions = AppOptions(),  # noqa: B008 - immutable
    metrics: Metrics | None = None,
    *,
    services: Sequence[Service] = (),
) -> FastAPI:
    """Returns the ASGI application. It closes the repository when the server ends.

    Args:
        repository: the models.
        options: limits and names.
        metrics: counts of requests and batches.
        services: further interfaces, which are open while the application runs.
    """
    metrics = metrics or Metrics()
    server = Server(repository, options, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                for service in services:
                    await stack.enter_async_context(service(server))
            except UserError as error:  # `serve` raises it; uvicorn would write a trace
                app.state.failure = error
            yield
        await anyio.to_thread.run_sync(repository.close)

    app = FastAPI(
        title="Conformer zoo",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        responses={"4XX": _ERROR, "5XX": _ERROR},
    )
    app.state.ending, app.state.failure = server.ending, None
    # Addresses are compared in this order, and a comparison takes time.
    app.include_router(_tensorflow_serving(server))
    app.include_router(upload_routes(server))
    app.include_router(page_routes(server))
    app.include_router(_health(server))
    app.add_exception_handler(Refusal, _refused(metrics))
    app.add_exception_handler(UserError, _refused(metrics))
    app.add_exception_handler(ClientDisconnect, _refused(metrics))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Gate, limits=options.limits, metrics=metrics, keys=Keys(options.api_keys))
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type"],
        )
    return app


def _refused(metrics: Metrics):
    """Returns the handler of refusals, of bad input to a model (400), and of clients that left."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientDisconnect):
            refusal = Refusal(499, "The client has hung up.", "gone")
        else:
            refusal = error if isinstance(error, Refusal) else Refusal(400, str(error), "input")
        metrics.error(refusal.kind)
        return error_answer(request.url.path, refusal)

    return answer


async def _http_error(request: Request, error: Exception) -> Response:
    """Answers unknown addresses and methods."""
    message = f"{error.detail}: {request.method} {request.url.path[:100]}"
    refusal = Refusal(error.status_code, message, "address", dict(error.headers or {}))
    return error_answer(request.url.path, refusal)


async def _failed(request: Request, error: Exception) -> Response:
    """Answers an unexpected error; the server writes it to its log."""
    refusal = Refusal(500, "The server failed. Its log says why.", "failure")
    return error_answer(request.url.path, refusal)


def _health(server: Server) -> APIRouter:
    router = APIRouter()

    # HEAD, which `wget --spider` and load balancers send.
    @router.head("/health/live", include_in_schema=False)
    @router.get("/health/live")
    async def live() -> dict:
        """Answers while the process runs."""
        return {"status": "live"}

    @router.head("/health/ready", include_in_schema=False)
    @router.get("/health/ready")
    async def ready(request: Request) -> Response:
        """Answers 200 if a model is loaded and the server does not end, else 503."""
        names = server.repository.names
        status = "ending" if is_ending(request.app) else "ready" if names else "loading"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    @router.get("/monitoring/prometheus/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Returns the metrics in Prometheus's text format."""
        return Response(server.metrics.text(), media_type=CONTENT_TYPE)

    return router


def _tensorflow_serving(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1/models")

    def at_each_place(method: str, suffix: str, body: dict | None = None):
        """Registers a handler for the newest version, for a version and for a label."""

        def register(handler: Callable) -> Callable:
            for place in ("/{name}", "/{name}/versions/{version}", "/{name}/labels/{label}"):
                described: dict = {"parameters": [_parameter(x) for x in _NAMES.findall(place)]}
                if body is not None:
                    described["requestBody"] = body
                path, methods = place + suffix, [method]
                router.add_api_route(path, handler, methods=methods, openapi_extra=described)
            return handler

        return register

    def model_of(request: Request) -> ServedModel:
        places = request.path_params
        return server.model(places["name"], places.get("version"), places.get("label"))

    @at_each_place("GET", "")
    async def status(request: Request) -> dict:
        """Returns the state of a model's versions, as TensorFlow Serving does."""
        model = model_of(request)
        states = server.repository.states(model.name)
        if len(request.path_params) > 1:
            states = {model.version: states[model.version]}
        return status_answer(states)

    @at_each_place("GET", "/metadata")
    async def metadata(request: Request) -> dict:
        """Returns the signatures of a model, as TensorFlow Serving does."""
        model = model_of(request)
        return metadata_answer(model.name, model.version, model.signatures)

    @at_each_place("POST", ":predict", _body("instances", "inputs", "signature_name"))
    async def predict(request: Request) -> Response:
        """Runs a signature on tensors or files, as TensorFlow Serving does."""
        model = model_of(request)
        body = await request.body()
        asked = await _aside(len(body), lambda: predict_request(parse_json(body), model.signatures))
        outputs = await server.outputs(model, asked.inputs, asked.signature)
        text = await _aside(
            sum(array.nbytes for array in outputs.values()),
            lambda: to_json(predict_answer(outputs, asked.by_row), separators=(",", ":")),
        )
        return Response(text, media_type="application/json")

    @at_each_place("POST", ":classify", _body("examples"))
    async def classify(request: Request) -> dict:
        """Returns classes and probabilities of image files, as TensorFlow Serving does."""
        model = model_of(request)
        examples = parse_json(await request.body()).get("examples")
        model.check_classifies()
        asked = predict_request(
            {"signature_name": SERVE_BYTES, "instances": examples}, model.signatures
        )
        found: list[Classes] = await server.files(model, asked.inputs["bytes"].tolist())
        pairs = [zip(x.class_names, x.probabilities, strict=True) for x in found]
        return {"result": [[list(pair) for pair in row] for row in pairs]}

    return router


async def _aside(num_bytes: int, work: Callable[[], Result]) -> Result:
    """Does work in a thread if it may take longer than the change of threads."""
    return work() if num_bytes <= _SMALL_BYTES else await anyio.to_thread.run_sync(work)


def _parameter(name: str) -> dict:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _body(*names: str) -> dict:
    """Returns the description of a JSON body with some fields of any type."""
    schema = {"type": "object", "properties": {name: {} for name in names}}
    return {"required": True, "content": {"application/json": {"schema": schema}}}
