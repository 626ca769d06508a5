"""Transcriptions, and what decoders of all kinds of recognizers share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from tools.decoding.hotwords import HotWord
from tools.decoding.protocol import Call, Hypothesis, Ranked, Search
from tools.decoding.text import text_of
from tools.decoding.timestamps import Word
from tools.errors import UserError
from tools.recognition.word_times import FrameTimes

Inputs = Mapping[str, np.ndarray]  # `waveforms` [B, S] and `lengths` [B]
Outputs = Mapping[str, np.ndarray]
ALL = 2000  # hypotheses of a beam search: the largest width


class Alternative(NamedTuple):
    """A text of a beam search and its score; higher is better."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Transcription:
    """The recognized text of one sound.

    Attributes:
        text: text from greedy search.
        words: words with their times in seconds and their confidences, of the beam search if there
            is one; empty if they were not requested.
        log_probability: log-probability of the path of greedy search, in nats.
        beam_text: text from beam search, or None without a beam search.
        n_best: different texts of the beam search, best first; empty if one text was requested.
        duration_seconds: length of the sound, or None if it is not known. Of a damaged recording,
            the length of what was recognized.
        damage: None, or why the rest of a long recording could not be read: a key of
            `tools.speech.audio.REASONS`.
        skipped: start and end in seconds of the silences that were left out on request.
    """

    text: str
    words: tuple[Word, ...] = ()
    log_probability: float | None = None
    beam_text: str | None = None
    n_best: tuple[Alternative, ...] = ()
    duration_seconds: float | None = None
    damage: str | None = None
    skipped: tuple[tuple[float, float], ...] = ()

    def lasting(self, seconds: float) -> "Transcription":
        """Returns a copy with the length of the sound, in which all words end."""
        words = tuple(
            word._replace(
                start_seconds=min(word.start_seconds, seconds),
                end_seconds=min(word.end_seconds, seconds),
            )
            for word in self.words
        )
        return replace(self, words=words, duration_seconds=seconds)

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name, for JSON. Words and alternatives are dictionaries, too."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if isinstance(value, tuple):
                values[name] = [x._asdict() if hasattr(x, "_asdict") else x for x in value]
        return values


class Decoder(Protocol):
    """Converts a padded batch to transcriptions.

    `transcriptions` of `answer` are the texts of a batch. Words with their times, and long
    recordings, need the frames: `frames`, `searches` and `written`.
    """

    def answer(self, call: Call, inputs: Inputs) -> dict[str, np.ndarray]:
        """Returns the outputs of `serving_default`.

        Args:
            call: function that runs a signature of the model.
            inputs: `waveforms` `[B, S]` float32 and `lengths` `[B]` int32.
        """

    def transcriptions(self, outputs: Outputs) -> list[Transcription]:
        """Converts the outputs of `answer` to B transcriptions without words.

        Args:
            outputs: result of `answer`.

        Raises:
            UserError: a score is not finite.
        """

    def preferring(self, hot_words: Sequence[HotWord]) -> "Decoder":
        """Returns a greedy decoder of the same model that prefers phrases.

        Args:
            hot_words: phrases that the vocabulary can write.
        """

    def frames(self, call: Call, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """Runs the model.

        Args:
            call: function that runs a signature of the model.
            inputs: `waveforms` `[B, S]` float32 and `lengths` `[B]` int32.

        Returns:
            `[B, T, D]` frames, and the `[B]` numbers of valid frames, 0 for silence.
        """

    def searches(self, call: Call) -> list[Search]:
        """Returns greedy search, and beam search if it was requested.

        Args:
            call: function that runs a signature of the model.
        """

    def written(
        self, searches: Sequence[Search], states: Sequence, times: FrameTimes | None = None
    ) -> list[Transcription]:
        """Returns the transcriptions of searches.

        Args:
            searches: result of `searches`.
            states: state of each search after the last frame.
            times: times of the frames, for words; None for no words.

        Raises:
            UserError: a score is not finite.
        """


def searched(search: Search, frames: np.ndarray, lengths: np.ndarray) -> Sequence[Hypothesis]:
    """Returns the hypotheses of a batch.

    Args:
        search: a search.
        frames: `[B, T, D]` encoded frames, or logits for CTC.
        lengths: `[B]` valid frames.
    """
    return search.finish(search.advance(search.start(len(frames)), frames, lengths))


def different_texts(ranked: Iterable[Ranked], surfaces: Sequence[str]) -> list[Alternative]:
    """Returns the texts of hypotheses in the same order, each text once.

    Args:
        ranked: hypotheses of a beam search, best first.
        surfaces: `[V]` text of each token.
    """
    found: dict[str, float] = {}
    for hypothesis, score in ranked:
        # CTC beam search compares texts, in which words are separated by single spaces.
        found.setdefault(" ".join(text_of(hypothesis.tokens, surfaces).split()), score)
    return [Alternative(*item) for item in found.items()]


def with_beam(found: Transcription, texts: Sequence[Alternative], n_best: int) -> Transcription:
    """Returns a copy with the best text of a beam search, and the list if several are wanted."""
    several = tuple(x for x in texts if x.score > -math.inf) if n_best > 1 else ()
    return replace(found, beam_text=texts[0].text, n_best=several)


def finite(log_probability: float) -> float:
    """Returns a log-probability. If it is not finite, the recognized text is meaningless.

    Raises:
        UserError: the log-probability is NaN or infinite.
    """
    if not math.isfinite(log_probability):
        raise UserError.expected(
            "finite scores of the symbols", "NaN or infinity", "Run the model in float32"
        )
    return float(log_probability)


def written_by(
    searches: Sequence[Search],
    states: Sequence,
    surfaces: Sequence[str],
    *,
    n_best: int,
    times: FrameTimes | None,
) -> list[Transcription]:
    """Returns the transcriptions of greedy search and perhaps a beam search.

    Args:
        searches: greedy search, and a beam search if there is one.
        states: state of each search after the last frame.
        surfaces: `[V]` text of each token.
        n_best: number of texts of the beam search.
        times: see `Decoder.written`.

    Raises:
        UserError: a score is not finite.
    """
    found = searches[0].finish(states[0])
    rows = [
        Transcription(text_of(one.tokens, surfaces), (), finite(one.log_probability))
        for one in found
    ]
    if len(searches) > 1:
        ranked = searches[1].n_best(states[1], ALL if n_best > 1 else 1)
        found = [one[0].hypothesis for one in ranked]
        rows = [
            with_beam(row, different_texts(one, surfaces)[:n_best], n_best)
            for row, one in zip(rows, ranked, strict=True)
        ]
    if times is None:
        return rows
    return [
        replace(row, words=times.words(one, surfaces)) for row, one in zip(rows, found, strict=True)
    ]
