"""A model that a server holds: what it reads, and the queue through which its inputs run."""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tools.conversion.protocol import TensorSpec
from tools.errors import UserError
from tools.inference.session import Inputs, Session
from tools.recognition.decoders import Transcription
from tools.recognition.session import SpeechSession
from tools.serving.batching import Batch, Batcher, BatchingOptions, Closed
from tools.serving.joined_rows import JoinedRows, Tensors
from tools.serving.tf_serving import DEFAULT_SIGNATURE
from tools.speech.audio import load, probe, stream
from tools.speech.reading import pad_waveforms

SERVE_BYTES = "serve_bytes"
_NUM_CLASSES = 5  # of an answer to serve_bytes, as in the SavedModel's signature
_KEPT_PROMPTS = 16
_BYTES = (TensorSpec("bytes", "string", (None,)),)
_OF_RUNNER = ("mode", "backend", "precision")


class Classes(NamedTuple):
    """The most probable classes of an image, best first.

    Attributes:
        class_names: their names, or their numbers as text if the model has no names.
        classes: their numbers.
        probabilities: their probabilities, 0 to 1.
    """

    class_names: tuple[str, ...]
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]


class Kind(Protocol):
    """How a server uses a session of one kind.

    Attributes:
        task: "transcribe", "classify" or "predict".
    """

    task: str

    def read(self, content: bytes) -> tuple[Any, float]:
        """Decodes a file; returns an input of `run` and its size.

        Raises:
            UserError: the file cannot be used.
        """

    def key(self, item: Any) -> Hashable:
        """Returns what inputs must have in common to run together."""

    def run(self, items: Sequence[Any]) -> list[Any]:
        """Runs a batch of inputs with equal keys and returns their results."""

    def outputs(self, results: Sequence[Any]) -> dict[str, np.ndarray]:
        """Returns the outputs of `serve_bytes` for some results."""


class Sound(NamedTuple):
    """A decoded sound.

    Attributes:
        waveform: `[S]` float32.
        with_words: whether words with their times are wanted.
        hot_words: phrases that the search prefers.
    """

    waveform: np.ndarray
    with_words: bool = False
    hot_words: tuple[str, ...] = ()


class Heard(NamedTuple):
    """The result for one sound.

    Attributes:
        row: outputs of `serve_bytes` by name, of one row; empty if words were wanted.
        transcription: text and words.
    """

    row: dict[str, np.ndarray]
    transcription: Transcription


class Speech:
    """Recognizes sounds; see `Kind`."""

    task = "transcribe"

    def __init__(self, session: SpeechSession):
        self._session = session
        # Scores of hot words take a while to compute, and clients repeat their prompts.
        self._preferring = functools.lru_cache(_KEPT_PROMPTS)(session.preferring)

    def read(self, content: bytes) -> tuple[Sound, float]:
        waveform = self.waveform(content)
        if self.is_long(waveform):
            seconds = len(waveform) / self._session.limits.rate_hz
            raise UserError.expected(
                f"a sound of at most {self._session.pipeline['max_seconds']:g} s",
                f"{seconds:.1f} s",
                "Send it to /v1/audio/transcriptions",
            )
        return Sound(waveform), float(len(waveform))

    def waveform(self, content: bytes) -> np.ndarray:
        """Decodes a file of any length that the session accepts; returns `[S]` float32.

        Raises:
            UserError: the file cannot be used.
        """
        return load(content, self._session.limits)

    def is_long(self, sound: np.ndarray | Path) -> bool:
        """Returns whether a waveform or a file must be divided.

        Raises:
            UserError: the file cannot be used.
        """
        if isinstance(sound, Path):
            return self._session.is_long(probe(sound, self._session.limits).num_samples)
        return self._session.is_long(len(sound))

    def transcribe_long(
        self,
        sound: np.ndarray | Path,
        with_words: bool,
        hot_words: tuple[str, ...] = (),
        *,
        partial: Callable[[str], None] = lambda text: None,
    ) -> Transcription:
        """Recognizes a long recording, in pieces between the batches of other requests.

        Args:
            sound: waveform or path.
            with_words: whether to return words with their times.
            hot_words: phrases that the search prefers.
            partial: called after each piece with the text so far. An exception that it raises
                ends the recognition.

        Raises:
            UserError: the file cannot be used.
        """
        session = self._preferring(hot_words)
        if isinstance(sound, np.ndarray):
            return session.recognize_long([sound], with_words, partial=partial)
        with contextlib.closing(stream(sound, session.limits)) as pieces:
            return session.recognize_long(pieces, with_words, partial=partial)

    def key(self, item: Sound) -> Hashable:
        return item.with_words, item.hot_words

    def run(self, items: Sequence[Sound]) -> list[Heard]:
        waveforms, lengths = pad_waveforms([item.waveform for item in items])
        inputs = {"waveforms": waveforms, "lengths": lengths}
        session = self._preferring(items[0].hot_words)
        if items[0].with_words:
            return [Heard({}, one) for one in session.recognize(inputs, timestamps=True)]
        return _texts(session, inputs)

    def outputs(self, results: Sequence[Heard]) -> dict[str, np.ndarray]:
        columns: dict[str, list[np.ndarray]] = {}
        for heard in results:
            for name, value in heard.row.items():
                columns.setdefault(name, []).append(value)
        return {name: _stacked(values) for name, values in columns.items()}


def _texts(session: SpeechSession, inputs: Inputs) -> list[Heard]:
    """Returns the outputs of `serve_bytes` and the transcriptions of a padded batch."""
    outputs = session.run(inputs)
    said = session.decoder.transcriptions(outputs)
    rate_hz = session.limits.rate_hz
    heard = []
    for number, (one, length) in enumerate(zip(said, inputs["lengths"], strict=True)):
        row = {"text": np.array([one.text.encode()], object)}
        if "token_ids" in outputs:
            row |= {name: array[number : number + 1] for name, array in outputs.items()}
            row["token_ids"] = row["token_ids"][:, : row["token_lengths"][0]]
        heard.append(Heard(row, one.lasting(int(length) / rate_hz)))
    return heard


def _stacked(values: Sequence[np.ndarray]) -> np.ndarray:
    """Joins the rows of arrays `[1]` or `[1, N]`; the latter are padded with zeros."""
    if values[0].ndim == 1:
        return np.concatenate(values)
    longest = max(value.shape[1] for value in values)
    padding = ((0, 0), (0, longest))
    return np.concatenate([np.pad(value, padding)[:, :longest] for value in values])


class Images:
    """Classifies images; see `Kind`."""

    task = "classify"

    def __init__(self, session: Session):
        self._session = session

    def read(self, content: bytes) -> tuple[np.ndarray, float]:
        return self._session.read(content), 1.0

    def key(self, item: np.ndarray) -> Hashable:
        return None

    def run(self, items: Sequence[np.ndarray]) -> list[Classes]:
        found = []
        for predictions in self._session.classify_read(items, top_k=self.num_classes):
            names = (str(x.index) if x.name is None else x.name for x in predictions)
            indices = tuple(x.index for x in predictions)
            found.append(Classes(tuple(names), indices, tuple(x.probability for x in predictions)))
        return found

    @property
    def num_classes(self) -> int:
        """Number of classes of the model."""
        return self._session.pipeline["num_classes"]

    def outputs(self, results: Sequence[Classes]) -> dict[str, np.ndarray]:
        count = min(_NUM_CLASSES, self.num_classes)
        return {
            "probabilities": np.array([x.probabilities[:count] for x in results], np.float32),
            "classes": np.array([x.classes[:count] for x in results], np.int32),
            "class_names": np.array([x.class_names[:count] for x in results], object),
        }


class NoFiles:
    """Runs tensors alone; see `Kind`."""

    task = "predict"

    def read(self, content: bytes) -> tuple[Any, float]:
        raise UserError.expected("tensors", "a file", "Send tensors to :predict")

    def key(self, item: Any) -> Hashable:
        return None

    def run(self, items: Sequence[Any]) -> list[Any]:
        raise UserError.expected("tensors", "a file", "Send tensors to :predict")

    def outputs(self, results: Sequence[Any]) -> dict[str, np.ndarray]:
        return {}


def kind_of(session: Session) -> Kind:
    """Returns how a server uses a session."""
    if isinstance(session, SpeechSession):
        return Speech(session)
    if hasattr(session, "classify_read"):
        return Images(session)
    return NoFiles()


class ServedModel:
    """A version of a model that answers requests.

    Files run in dynamic batches, and so do tensors of the same shape but for the rows.

    Args:
        name: name of the model in addresses.
        version: number of the version.
        session: the opened model, which is closed with this object.
        options: sizes and times of the batches.
        kind: how to use the session; None: as `kind_of` says.
        report: called with each batch that has run.

    Attributes:
        kind: how the server uses the session.
        signatures: inputs of each signature by name, with `serve_bytes`.
        described: version, task and signatures of the model, and mode, backend and precision of
            its runner, for the list of models.
    """

    def __init__(
        self,
        name: str,
        version: int,
        session: Session,
        options: BatchingOptions,
        *,
        kind: Kind | None = None,
        report: Callable[[Batch], None] = lambda batch: None,
    ):
        self.name, self.version, self.session = name, version, session
        self.kind = kind or kind_of(session)
        self.signatures: dict[str, Sequence[TensorSpec]] = dict(session.signatures)
        if self.kind.task != NoFiles.task:
            self.signatures[SERVE_BYTES] = _BYTES
        self.described = {
            "version": str(version),
            "task": self.kind.task,
            "signatures": sorted(self.signatures),
            "runner": {name: getattr(session.runner, name) for name in _OF_RUNNER},
        }
        self._released, self._num_held, self._is_closed = threading.Condition(), 0, False
        self._files: Batcher[Any, Any] = Batcher(
            self.kind.run, options, key=self.kind.key, report=report
        )
        rows = JoinedRows(session, options.max_batch_size)
        self._tensors: Batcher[Tensors, dict] = Batcher(
            rows.run, options, key=rows.key, report=report
        )

    @property
    def num_enqueued(self) -> int:
        """Number of inputs in the queues."""
        return self._files.num_enqueued + self._tensors.num_enqueued

    def check_classifies(self) -> None:
        """Checks that the model classifies images.

        Raises:
            UserError: it does another task.
        """
        if self.kind.task != Images.task:
            raise UserError.expected(
                "a classifier", f"{self.name}, which cannot classify", "Use predict"
            )

    def submit_files(
        self, items: Sequence[tuple[Any, float]], timeout_seconds: float = math.inf
    ) -> list[Future]:
        """Puts decoded files into the queue; see `Batcher.submit_all`.

        Args:
            items: results of `kind.read`.
            timeout_seconds: longest time in the queue.

        Raises:
            QueueFull: there is no room for all of them.
            Closed: the model is closed.
        """
        return self._files.submit_all(items, timeout_seconds=timeout_seconds)

    def submit_tensors(
        self,
        inputs: Mapping[str, np.ndarray],
        signature: str = DEFAULT_SIGNATURE,
        timeout_seconds: float = math.inf,
    ) -> "Future[dict[str, np.ndarray]]":
        """Puts a batch of tensors into the queue; see `Batcher.submit`.

        Raises:
            QueueFull: the queue is full.
            Closed: the model is closed.
        """
        return self._tensors.submit(Tensors(inputs, signature), timeout_seconds=timeout_seconds)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the session open until the end of a `with` statement.

        Raises:
            Closed: the model is closed.
        """
        with self._released:
            if self._is_closed:
                raise Closed
            self._num_held += 1
        try:
            yield
        finally:
            with self._released:
                self._num_held -= 1
                self._released.notify_all()

    def close(self) -> None:
        """Answers what is in the queues, waits until nobody holds the model, and closes it."""
        with self._released:
            self._is_closed = True
        self._files.close()
        self._tensors.close()
        with self._released:
            self._released.wait_for(lambda: not self._num_held)
        self.session.close()
