"""The HTTP application: TensorFlow Serving's REST interface, health and metrics."""

import contextlib
from collections.abc import AsyncIterator

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from tools.errors import UserError
from tools.files import to_json
from tools.serving.metrics import CONTENT_TYPE, Metrics
from tools.serving.page import page_routes
from tools.serving.repository import Repository
from tools.serving.requests import Gate, Refusal, error_answer
from tools.serving.served_model import SERVE_BYTES, Classes
from tools.serving.server import AppOptions, Server
from tools.serving.tf_serving import (
    metadata_answer,
    parse_json,
    predict_answer,
    predict_request,
    status_answer,
)
from tools.serving.uploads import upload_routes


def create_app(
    repository: Repository,
    options: AppOptions = AppOptions(),  # noqa: B008 - immutable
    metrics: Metrics | None = None,
) -> FastAPI:
    """Returns the ASGI application. It closes the repository when the server ends.

    Args:
        repository: the models.
        options: limits and names.
        metrics: counts of requests and batches.
    """
    metrics = metrics or Metrics()
    server = Server(repository, options, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(repository.close)

    app = FastAPI(title="Conformer zoo", version="1", lifespan=lifespan, docs_url=None)
    app.include_router(_health(server))
    app.include_router(upload_routes(server))
    app.include_router(page_routes(server))
    app.include_router(_tensorflow_serving(server))
    app.add_exception_handler(Refusal, _refused(metrics))
    app.add_exception_handler(UserError, _refused(metrics))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Gate, limits=options.limits, metrics=metrics, keys=tuple(options.api_keys))
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type"],
        )
    return app


def _refused(metrics: Metrics):
    """Returns the handler of refusals, and of bad input to a model, which is a refusal (400)."""

    async def answer(request: Request, error: Exception) -> Response:
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

    @router.get("/health/live")
    async def live() -> dict:
        """Answers while the process runs."""
        return {"status": "live"}

    @router.get("/health/ready")
    async def ready() -> Response:
        """Answers 200 if a model is loaded, else 503."""
        names = server.repository.names
        return JSONResponse({"status": "ready" if names else "loading"}, 200 if names else 503)

    @router.get("/metrics")
    @router.get("/monitoring/prometheus/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Returns the metrics in Prometheus's text format."""
        return Response(server.metrics.text(), media_type=CONTENT_TYPE)

    return router


def _tensorflow_serving(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1/models")

    @router.get("/{name}")
    @router.get("/{name}/versions/{version}")
    async def status(name: str, version: str | None = None) -> dict:
        """Returns the state of a model's versions, as TensorFlow Serving does."""
        model = server.model(name, version)
        states = server.repository.states(model.name)
        if version is not None:
            states = {model.version: states[model.version]}
        return status_answer(states)

    @router.get("/{name}/metadata")
    @router.get("/{name}/versions/{version}/metadata")
    async def metadata(name: str, version: str | None = None) -> dict:
        """Returns the signatures of a model, as TensorFlow Serving does."""
        model = server.model(name, version)
        return metadata_answer(model.name, model.version, model.signatures)

    @router.post("/{name}:predict")
    @router.post("/{name}/versions/{version}:predict")
    async def predict(request: Request, name: str, version: str | None = None) -> Response:
        """Runs a signature on tensors or files, as TensorFlow Serving does."""
        model = server.model(name, version)
        body = await request.body()
        asked = await anyio.to_thread.run_sync(
            lambda: predict_request(parse_json(body), model.signatures)
        )
        if asked.signature == SERVE_BYTES and "bytes" in asked.inputs:
            results = await server.files(model, asked.inputs["bytes"].tolist())
            outputs = model.kind.outputs(results)
        else:
            outputs = await server.tensors(model, asked.inputs, asked.signature)
        text = await anyio.to_thread.run_sync(
            lambda: to_json(predict_answer(outputs, asked.by_row), separators=(",", ":"))
        )
        return Response(text, media_type="application/json")

    @router.post("/{name}:classify")
    @router.post("/{name}/versions/{version}:classify")
    async def classify(request: Request, name: str, version: str | None = None) -> dict:
        """Returns classes and probabilities of image files, as TensorFlow Serving does."""
        model = server.model(name, version)
        examples = parse_json(await request.body()).get("examples")
        if model.kind.task != "classify":
            raise Refusal(
                400,
                f"Expected a classifier. Received: {model.name}, which cannot classify. Use "
                ":predict.",
                "model",
            )
        asked = predict_request(
            {"signature_name": SERVE_BYTES, "instances": examples}, model.signatures
        )
        found: list[Classes] = await server.files(model, asked.inputs["bytes"].tolist())
        pairs = [zip(x.class_names, x.probabilities, strict=True) for x in found]
        return {"result": [[list(pair) for pair in row] for row in pairs]}

    return router
