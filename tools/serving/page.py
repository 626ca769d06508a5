"""The page at `/`, on which a person tries the models, and the activation map that it draws."""

import hashlib
from pathlib import Path

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tools.conversion.protocol import TensorSpec
from tools.serving.requests import Refusal
from tools.serving.served_model import ServedModel
from tools.serving.server import Server
from tools.serving.uploads import file_of, form_body, form_of, model_of

ACTIVATION_MAP = "activation_map"  # name of the signature
_BODY = form_body(**{"class": {"type": "integer", "minimum": 0}})
_PREDICTED = -1  # class number that selects the predicted class
_FOLDER = Path(__file__).with_name("page")
_INDEX = "index.html"
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # Nothing comes from another server. The page plays and draws files of the user: `blob:`.
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # The browser asks each time whether its copy is the newest one.
    "Cache-Control": "no-cache",
}


def page_routes(server: Server) -> APIRouter:
    """Returns the routes.

    Args:
        server: answers requests with its models.
    """
    router = APIRouter()
    answers = {path.name: _file_answer(path) for path in sorted(_FOLDER.iterdir())}

    @router.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return answers[_INDEX](request)

    @router.get("/page/{name}", include_in_schema=False)
    async def page_file(request: Request, name: str) -> Response:
        if name not in answers:
            raise HTTPException(404)
        return answers[name](request)

    @router.post("/v1/activation_map", openapi_extra=_BODY)
    async def activation_map(request: Request) -> dict:
        """Returns the parts of an image that lead to a class, as small grids of numbers."""
        async with form_of(request) as form:
            model = model_of(server, form, "classify")
            number = _class_number(form.get("class"), model)
            content = await file_of(form).read()
        return await _activation_map(server, model, content, number)

    return router


def _file_answer(path: Path):
    """Reads a file of the page; returns the function that answers requests for it."""
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": tag}

    def answer(request: Request) -> Response:
        known = (word.strip() for word in request.headers.get("if-none-match", "").split(","))
        if tag in known:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_CONTENT_TYPES[path.suffix], headers=headers)

    return answer


def _class_number(text: object, model: ServedModel) -> int:
    if text is None:
        return _PREDICTED
    most = model.session.pipeline["num_classes"]
    is_number = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10
    if not is_number or int(text) >= most:
        raise Refusal(
            400,
            f"Expected the number of a class below {most}. Received: {str(text)[:50]!a}. "
            "Correct it.",
            "form",
        )
    return int(text)


async def _activation_map(server: Server, model: ServedModel, content: bytes, number: int) -> dict:
    """Runs the signature and returns the body of the answer."""
    specs = model.session.signatures.get(ACTIVATION_MAP)
    if specs is None:
        raise Refusal(
            400,
            f"Expected a model with the signature {ACTIVATION_MAP}. Received: {model.name}, which "
            "is converted. Start the server with --run_eagerly.",
            "model",
        )
    image, _ = await anyio.to_thread.run_sync(model.kind.read, content)
    outputs = await server.tensors(model, _inputs(specs, image, number), ACTIVATION_MAP)
    names = sorted(name for name in outputs if name.endswith("_map"))
    maps = {name: outputs[name][0].tolist() for name in names}
    preprocessing = model.session.pipeline["preprocessing"]
    return {
        "model": model.name,
        "class": int(outputs["classes"][0]),
        "maps": maps,
        # What the maps cover: the square in the middle of the image, as part of its short side.
        "crop_pct": preprocessing["crop_pct"],
        "exif_orientation": preprocessing.get("exif_orientation", False),
    }


def _inputs(specs: tuple[TensorSpec, ...], image: np.ndarray, number: int) -> dict[str, np.ndarray]:
    """Returns the inputs of the signature for one image `[S, S, 3]`, in the model's layout."""
    inputs = {}
    for spec in specs:
        if spec.name == "classes":
            inputs[spec.name] = np.array([number], np.int32)
        else:
            channels_last = spec.shape[-1] == image.shape[-1]
            image = image if channels_last else np.moveaxis(image, -1, 0)
            inputs[spec.name] = np.ascontiguousarray(image)[None]
    return inputs
