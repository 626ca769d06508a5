"""Routes that take a file as a form: transcriptions, classes of an image, the list of models."""

import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from tools.errors import UserError
from tools.recognition.decoders import Transcription
from tools.serving.kinds import Sound, Speech
from tools.serving.long_recordings import LongRecordings, Recording
from tools.serving.requests import Refusal
from tools.serving.served_model import ServedModel
from tools.serving.server import Server
from tools.serving.transcription import (
    DAMAGE_HEADER,
    FORMATS,
    GRANULARITIES,
    Deltas,
    TranscriptionRequest,
    answer,
    error_event,
    spoken,
    transcription_request,
)

_MOST_FIELDS = 50
_IN_MEMORY_BYTES = 4 * 1024 * 1024  # a larger sound is written to a file and read in pieces
_DEFAULT_TOP_K = 5
_FORM = "multipart/form-data"
_EVENTS = "text/event-stream"
_ANSWERS = {200: {"content": {kind.partition(";")[0]: {} for kind in (*FORMATS.values(), _EVENTS)}}}


def form_body(**fields: dict) -> dict:
    """Returns the description of a form with a file, for the OpenAPI document.

    Args:
        fields: JSON schemas of further fields by name.
    """
    text = {"type": "string"}
    properties = {"file": {**text, "format": "binary"}, "model": text, **fields}
    schema = {"type": "object", "required": ["file"], "properties": properties}
    return {"requestBody": {"required": True, "content": {_FORM: {"schema": schema}}}}


def upload_routes(server: Server) -> APIRouter:
    """Returns the routes.

    Args:
        server: answers requests with its models.
    """
    router = APIRouter(prefix="/v1")
    options = server.options
    long_recordings = LongRecordings(options.max_enqueued, options.request_seconds)
    started = int(time.time())

    @router.get("/models")
    async def models() -> dict:
        """Lists the models, in the form of OpenAI's interface, with their tasks and runners."""
        names = [*server.repository.names, *server.options.aliases]
        basics = {"object": "model", "created": started, "owned_by": "local"}
        rows = []
        for name in names:
            with contextlib.suppress(Refusal):  # it is not loaded any more
                rows.append({"id": name, **basics, **server.model(name).described})
        return {"object": "list", "data": rows}

    several = {"type": "array", "items": {"type": "string", "enum": [*GRANULARITIES]}}
    described = form_body(
        language={"type": "string"},
        prompt={"type": "string"},
        response_format={"type": "string", "enum": [*FORMATS]},
        stream={"type": "boolean"},
        temperature={"type": "number"},
        **{"timestamp_granularities[]": several},
    )

    @router.post("/audio/transcriptions", openapi_extra=described, responses=_ANSWERS)
    async def transcriptions(request: Request) -> Response:
        """Transcribes a sound file, in the form of OpenAI's interface."""
        async with form_of(request) as form:
            model = model_of(server, form, Speech.task)
            language = model.session.pipeline.get("language")
            fields = {key: [x for x in form.getlist(key) if isinstance(x, str)] for key in form}
            asked = transcription_request(fields, language)
            content = await file_of(form).read()
        with_words = asked.response_format not in ("json", "text")
        speech: Speech = model.kind
        async with contextlib.AsyncExitStack() as stack:
            sound = await anyio.to_thread.run_sync(_sound, speech, content, stack)
            del content  # a long recording may wait for minutes
            if isinstance(sound, np.ndarray):
                item = Sound(sound, with_words, asked.hot_words)
                (heard,) = await server.items(model, [(item, float(len(sound)))])
                found = heard.transcription
            else:
                model = await server.hold(model, stack)
                recording = Recording(model.kind, sound, with_words, asked.hot_words)
                if not asked.stream:
                    found = await long_recordings.transcription(recording, request)
                    return await _written(found, asked, language)
                # The answer begins before the end of the recording; the file lives until then.
                events = _events(long_recordings, recording, stack.pop_all())
                return StreamingResponse(events, media_type=_EVENTS)
        if asked.stream:
            return StreamingResponse(Deltas().end(spoken(found)), media_type=_EVENTS)
        return await _written(found, asked, language)

    @router.post("/classify", openapi_extra=form_body(top_k={"type": "integer", "minimum": 1}))
    async def classify(request: Request) -> dict:
        """Classifies an image file: names and probabilities of the best classes."""
        async with form_of(request) as form:
            model = model_of(server, form, "classify")
            top_k = _top_k(form.get("top_k"))
            content = await file_of(form).read()
        (found,) = await server.files(model, [content])
        rows = zip(found.classes, found.class_names, found.probabilities, strict=True)
        names = ("class", "name", "probability")
        best = [dict(zip(names, row, strict=True)) for row in rows][:top_k]
        return {"model": model.name, "predictions": best}

    return router


async def _written(
    found: Transcription, asked: TranscriptionRequest, language: str | None
) -> Response:
    text = await anyio.to_thread.run_sync(answer, found, asked, language)
    headers = {} if found.damage is None else {DAMAGE_HEADER: found.damage}
    return Response(text, media_type=FORMATS[asked.response_format], headers=headers)


async def _events(
    long_recordings: LongRecordings, recording: Recording, stack: contextlib.AsyncExitStack
) -> AsyncIterator[str]:
    """Yields the server-sent events of a long recording."""
    deltas = Deltas()
    async with stack, contextlib.aclosing(long_recordings.texts(recording)) as texts:
        try:
            async for text in texts:
                whole = isinstance(text, Transcription)
                events = deltas.end(spoken(text), text.damage) if whole else deltas.so_far(text)
                for event in events:
                    yield event
        except UserError as error:
            yield error_event(Refusal(400, str(error), "input"))
        except Refusal as refusal:
            yield error_event(refusal)


def _sound(speech: Speech, content: bytes, stack: contextlib.AsyncExitStack):
    """Returns the waveform of a sound; of a long recording the content, or the path of a copy."""
    if len(content) <= _IN_MEMORY_BYTES:
        return speech.sound(content)
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upload-")), "sound")
    path.write_bytes(content)
    return speech.sound(path)


@contextlib.asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """Reads the form of a request; its files are closed at the end.

    Args:
        request: the request.

    Raises:
        Refusal: the request holds no form, or one that cannot be read.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith(_FORM):
        raise Refusal(
            400,
            f"Expected a form (multipart/form-data) with the field file. Received: "
            f"{kind[:100] or 'no content type'}. Send the file in a form.",
            "form",
        )
    try:
        form = await request.form(max_files=1, max_fields=_MOST_FIELDS)
    except HTTPException as error:
        raise Refusal(
            400,
            f"Expected a form with one file and at most {_MOST_FIELDS} fields. Received: "
            f"{error.detail.rstrip('.')}. Correct the form.",
            "form",
        ) from error
    try:
        yield form
    finally:
        await form.close()


def file_of(form: FormData) -> UploadFile:
    """Returns the file of the field `file`.

    Args:
        form: the form of a request.

    Raises:
        Refusal: there is none.
    """
    found = form.get("file")
    if not isinstance(found, UploadFile):
        raise Refusal(400, "Expected a file in the field file. Received: none. Send one.", "form")
    return found


def model_of(server: Server, form: FormData, task: str) -> ServedModel:
    """Returns the model of the field `model`; without it, the first one that does the task.

    Args:
        server: holds the models.
        form: the form of a request.
        task: see `Kind`.

    Raises:
        Refusal: there is no such model, or it does another task.
    """
    name = form.get("model")
    if name is None:
        for known in server.repository.names:
            model = server.model(known)
            if model.kind.task == task:
                return model
        raise Refusal(404, f"Expected a model that can {task}. Received: none. Serve one.", "model")
    model = server.model(name if isinstance(name, str) else "")
    if model.kind.task != task:
        raise Refusal(
            400,
            f"Expected a model that can {task}. Received: {model.name}, which can "
            f"{model.kind.task}. Name another model.",
            "model",
        )
    return model


def _top_k(text: object) -> int:
    if text is None:
        return _DEFAULT_TOP_K
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        raise Refusal(400, f"Expected top_k >= 1. Received: {str(text)[:50]}. Correct it.", "form")
    return int(text)
