"""Answers requests with the models of a repository, in whatever form they came."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio.to_thread
import numpy as np

from tools.errors import UserError
from tools.files import one_line
from tools.serving.batching import BatchingOptions, Closed, DeadlineExceeded, QueueFull
from tools.serving.metrics import Metrics
from tools.serving.repository import Repository, UnknownModel
from tools.serving.requests import Refusal, RequestLimits, ending, later
from tools.serving.served_model import SERVE_BYTES, ServedModel

_MOST_VERSION_DIGITS = 18
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class AppOptions:
    """Options of the application.

    Attributes:
        request_seconds: longest time of an input in the queue.
        limits: limits of the body of a request.
        api_keys: accepted keys; empty: no key is needed.
        cors_origins: web pages of these origins may use the server.
        aliases: further names of models.
        max_enqueued: largest number of long recordings that wait.
    """

    request_seconds: float = 300.0
    limits: RequestLimits = field(default_factory=RequestLimits)
    api_keys: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    max_enqueued: int = BatchingOptions().max_enqueued


class Server:
    """Answers requests with the models of a repository.

    Args:
        repository: the models.
        options: limits and names.
        metrics: counts of requests and batches.

    Attributes:
        ending: set when the server begins to end.
    """

    def __init__(self, repository: Repository, options: AppOptions, metrics: Metrics):
        self.repository, self.options, self.metrics = repository, options, metrics
        self.ending = asyncio.Event()

    def model(self, name: str, version: str | None = None, label: str | None = None) -> ServedModel:
        """Returns a loaded model; the newest version without a number or a label.

        Raises:
            Refusal: the model or the version is not loaded (404).
        """
        number = None if version is None else _version(version)
        try:
            return self.repository.get(self.options.aliases.get(name, name), number, label)
        except UnknownModel:
            which = name if version is None else f"{name} version {version}"
            which = which if label is None else f"{name} label {label}"
            raise Refusal(
                404,
                f"Expected a model among {', '.join(self.repository.names) or 'none'}. "
                f"Received: {one_line(which[:100]) or 'an empty name'}. See /v1/models.",
                "model",
            ) from None

    async def files(self, model: ServedModel, contents: Sequence[bytes]) -> list[Any]:
        """Decodes files, each alone, and returns the results of the model.

        Raises:
            Refusal: a file cannot be used (400), or see `items`.
        """
        items = []
        for number, content in enumerate(contents):
            try:
                items.append(await anyio.to_thread.run_sync(model.kind.read, content))
            except UserError as error:
                place = f"File {number + 1}: " if len(contents) > 1 else ""
                raise Refusal(400, f"{place}{error}", "input") from error
        return await self.items(model, items)

    async def outputs(
        self, model: ServedModel, inputs: Mapping[str, np.ndarray], signature: str
    ) -> dict[str, np.ndarray]:
        """Runs a signature on files or tensors and returns its outputs; see `files`, `tensors`."""
        if signature != SERVE_BYTES or "bytes" not in inputs:
            return await self.tensors(model, inputs, signature)
        return model.kind.outputs(await self.files(model, inputs["bytes"].tolist()))

    async def items(self, model: ServedModel, items: Sequence[tuple[Any, float]]) -> list[Any]:
        """Runs decoded files and returns the results.

        Raises:
            Refusal: the queue is full (503), or the wait is too long (504).
            UserError: the model refuses an input.
        """
        futures = await self._submitted(
            model, lambda one: one.submit_files(items, self.options.request_seconds)
        )
        return [await self._result(future) for future in futures]

    async def tensors(
        self, model: ServedModel, inputs: Mapping[str, np.ndarray], signature: str
    ) -> dict[str, np.ndarray]:
        """Runs tensors.

        Raises:
            Refusal: the queue is full (503), or the wait is too long (504).
            UserError: the tensors do not fit the model.
        """
        seconds = self.options.request_seconds
        future = await self._submitted(
            model, lambda one: one.submit_tensors(inputs, signature, seconds)
        )
        return await self._result(future)

    async def hold(self, model: ServedModel, stack: contextlib.AsyncExitStack) -> ServedModel:
        """Keeps a model open until the end of `stack`; returns it, or the version after it.

        Raises:
            Refusal: the server ends (503).
        """

        def held(one: ServedModel) -> ServedModel:
            stack.enter_context(one.held())
            return one

        return await self._submitted(model, held)

    async def _submitted(
        self, model: ServedModel, submit: Callable[[ServedModel], Result]
    ) -> Result:
        """Puts inputs into a queue. If a new version replaced the model, it gets the inputs."""
        while True:
            try:
                return submit(model)
            except QueueFull:
                raise full_queue() from None
            except Closed:
                newer = self.model(model.name)
                if newer is model:
                    raise ending() from None
                model = newer

    async def _result(self, future: Any) -> Any:
        try:
            return await asyncio.wrap_future(future)
        except DeadlineExceeded:
            raise too_late(self.options.request_seconds) from None


def full_queue() -> Refusal:
    """Returns the refusal of a request for which the queue has no room (503)."""
    return later("room in the queue", "a full queue", "busy")


def too_late(seconds: float) -> Refusal:
    """Returns the refusal of a request that waited too long (504).

    Args:
        seconds: longest time of a request in the queue.
    """
    return Refusal(
        504,
        f"Expected an answer within {seconds:g} s. Received: a longer queue. Try again later.",
        "late",
    )


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_VERSION_DIGITS):
        raise Refusal(
            400, f"Expected the number of a version. Received: {text[:50]}. Correct it.", "version"
        )
    return int(text)
