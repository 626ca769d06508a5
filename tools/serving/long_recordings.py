"""Recognizes long recordings: one at a time, with partial texts, until the client hangs up."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import anyio.to_thread
from starlette.requests import Request

from tools.errors import UserError
from tools.recognition.decoders import Transcription
from tools.serving.kinds import Speech
from tools.serving.requests import Refusal
from tools.serving.server import AppOptions, full_queue, too_late

_DEFAULTS = AppOptions()
_LOOK_SECONDS = 0.5  # between two looks whether the client is still there


class Stopped(Exception):
    """The recognition was stopped, because nobody waits for its result any more."""


class Recording(NamedTuple):
    """A long recording and what is wanted of it.

    Attributes:
        speech: recognizes it.
        sound: content of a sound file, or a path.
        with_words: whether words with their times are wanted.
        hot_words: phrases that the search prefers.
    """

    speech: Speech
    sound: bytes | Path
    with_words: bool = False
    hot_words: tuple[str, ...] = ()

    def transcribe(self, partial: Callable[[str], None]) -> Transcription:
        """Recognizes the recording; see `Speech.transcribe_long`."""
        return self.speech.transcribe_long(
            self.sound, self.with_words, self.hot_words, partial=partial
        )


class LongRecordings:
    """Recognizes one long recording at a time, between the batches of other requests.

    Args:
        most_waiting: largest number of recordings that wait.
        seconds: longest time that a recording waits.
    """

    def __init__(
        self,
        most_waiting: int = _DEFAULTS.max_enqueued,
        seconds: float = _DEFAULTS.request_seconds,
    ):
        self._most_waiting, self._seconds, self._waiting = most_waiting, seconds, 0
        # A long recording takes all cores for minutes.
        self._turn = asyncio.Semaphore(1)

    async def transcription(self, recording: Recording, request: Request) -> Transcription:
        """Returns the transcription of a recording.

        Args:
            recording: the recording.
            request: its request; if the client hangs up, the recognition stops.

        Raises:
            UserError: the file cannot be used.
            Refusal: the client has hung up, or see `texts`.
        """
        task = asyncio.create_task(self._last(recording))
        try:
            while not task.done():
                await asyncio.wait([task], timeout=_LOOK_SECONDS)
                if not task.done() and await request.is_disconnected():
                    raise Refusal(499, "The client has hung up.", "gone")
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _last(self, recording: Recording) -> Transcription:
        async with contextlib.aclosing(self.texts(recording)) as texts:
            return [found async for found in texts][-1]

    async def texts(self, recording: Recording) -> AsyncIterator[str | Transcription]:
        """Yields the text so far after each piece of a recording, and at last the transcription.

        If the iterator is closed, the recognition stops after the current piece.

        Args:
            recording: the recording.

        Raises:
            UserError: the file cannot be used.
            Refusal: too many recordings wait (503), or the wait is too long (504).
        """
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[str | None] = asyncio.Queue()
        stopped = threading.Event()

        def partial(text: str) -> None:
            if stopped.is_set():
                raise Stopped
            loop.call_soon_threadsafe(arrived.put_nowait, text)

        async def work() -> Transcription:
            try:
                return await anyio.to_thread.run_sync(recording.transcribe, partial)
            finally:
                arrived.put_nowait(None)

        async with self._next_turn():
            task = asyncio.create_task(work())
            try:
                while (text := await arrived.get()) is not None:
                    yield text
                yield await task
            finally:
                stopped.set()
                with contextlib.suppress(asyncio.CancelledError, Stopped, UserError):
                    await task  # the next recording begins when the thread has ended

    @contextlib.asynccontextmanager
    async def _next_turn(self) -> AsyncIterator[None]:
        if self._turn.locked() and self._waiting >= self._most_waiting:
            raise full_queue()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise too_late(self._seconds) from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()
