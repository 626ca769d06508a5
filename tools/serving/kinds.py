"""How a server uses sessions: what it reads from files, and what it answers."""

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tools.errors import UserError
from tools.inference.session import Inputs, Session
from tools.recognition.decoders import Transcription
from tools.recognition.session import SpeechSession
from tools.speech.audio import AudioError, load, probe, stream
from tools.speech.reading import pad_waveforms

_NUM_CLASSES = 5  # of an answer to serve_bytes, as in the SavedModel's signature
_KEPT_PROMPTS = 16


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


@contextlib.contextmanager
def _unnamed(file: bytes | Path) -> Iterator[None]:
    """Leaves the path of an uploaded file out of errors."""
    try:
        yield
    except AudioError as error:
        message = str(error).replace(str(file), "the file") if isinstance(file, Path) else error
        raise AudioError(str(message), path="the file", reason=error.reason) from error


class Speech:
    """Recognizes sounds; see `Kind`."""

    task = "transcribe"

    def __init__(self, session: SpeechSession):
        self._session = session
        # Scores of hot words take a while to compute, and clients repeat their prompts.
        self._preferring = functools.lru_cache(_KEPT_PROMPTS)(session.preferring)
        # Longer sounds are not decoded as a whole: a small file can hold hours.
        longest = min(session.limits.max_seconds, session.pipeline["max_seconds"])
        self._at_once = replace(session.limits, max_seconds=longest)

    def read(self, content: bytes) -> tuple[Sound, float]:
        waveform = self.sound(content)
        if not isinstance(waveform, np.ndarray):
            raise UserError.expected(
                f"a sound of at most {self._at_once.max_seconds:g} s",
                "a longer one",
                "Send it to /v1/audio/transcriptions",
            )
        return Sound(waveform), float(len(waveform))

    def sound(self, file: bytes | Path) -> np.ndarray | bytes | Path:
        """Decodes a file that the model takes at once; returns the file itself if it is longer.

        A longer file may be damaged behind its beginning, as in the programs.

        Args:
            file: content of a sound file, or a path.

        Returns:
            `[S]` float32, or the file.

        Raises:
            UserError: the file cannot be used.
        """
        with _unnamed(file):
            try:
                waveform = load(file, self._at_once)
                return file if self._session.is_long(len(waveform)) else waveform
            except AudioError:
                info = probe(file, self._session.limits, accept_damage=True)
                if not self._session.is_long(info.num_samples):
                    raise
                return file

    def transcribe_long(
        self,
        sound: bytes | Path,
        with_words: bool,
        hot_words: tuple[str, ...] = (),
        *,
        partial: Callable[[str], None] = lambda text: None,
    ) -> Transcription:
        """Recognizes a long recording, in pieces between the batches of other requests.

        Args:
            sound: content of a sound file, or a path.
            with_words: whether to return words with their times.
            hot_words: phrases that the search prefers.
            partial: called after each piece with the text so far. An exception that it raises
                ends the recognition.

        Returns:
            The transcription. If the file is damaged behind its beginning, it is that of the part
            before, and its `damage` is set.

        Raises:
            UserError: the file cannot be used.
        """
        session = self._preferring(hot_words)
        with _unnamed(sound), contextlib.closing(stream(sound, session.limits)) as pieces:
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
