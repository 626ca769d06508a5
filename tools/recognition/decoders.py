"""Decoders: convert the outputs of a recognizer to transcriptions, for every runtime."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.greedy import GreedySearch
from tools.decoding.hotwords import HotWord
from tools.decoding.protocol import BeamSearching, Call, Hypothesis, Ranked, Search
from tools.decoding.tdt import TdtSearch
from tools.decoding.text import text_of
from tools.decoding.timestamps import Word
from tools.errors import UserError
from tools.recognition.beams import hot_scores_of, max_window
from tools.recognition.word_times import FrameTimes

Inputs = Mapping[str, np.ndarray]  # `waveforms` [B, S] and `lengths` [B]
Outputs = Mapping[str, np.ndarray]
_ALL = 2000  # hypotheses of a beam search: the largest width


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


class TransducerDecoder:
    """Greedy search of a transducer or of its CTC head: in the model's graph, or in Python.

    Args:
        pipeline: content of the model's `pipeline.json`.
        in_graph: whether the model has the signature `serving_default`, which includes the search.
        beam: function of a `Call` that makes a beam search, which runs beside greedy search; None
            for greedy search alone.
        n_best: number of texts of the beam search.
        hot_words: phrases with a higher score in greedy search.
        threads: number of calls of the networks that greedy search may run at the same time.
    """

    def __init__(
        self,
        pipeline: Mapping,
        in_graph: bool,
        beam: Callable[[Call], BeamSearching] | None = None,
        n_best: int = 1,
        *,
        hot_words: Sequence[HotWord] = (),
        threads: int = 1,
    ):
        self._pipeline, self._beam, self._n_best = pipeline, beam, n_best
        self._threads = threads
        self._hot_scores = hot_scores_of(pipeline, hot_words)
        self._in_graph = in_graph and beam is None and self._hot_scores is None
        # Output of `listen` that the search decodes.
        self._frames = "logits" if pipeline.get("head") == "ctc" else "encoded"

    def preferring(self, hot_words: Sequence[HotWord]) -> "TransducerDecoder":
        """See `Decoder.preferring`."""
        return TransducerDecoder(
            self._pipeline, in_graph=False, hot_words=hot_words, threads=self._threads
        )

    def answer(self, call: Call, inputs: Inputs) -> dict[str, np.ndarray]:
        """See `Decoder.answer`.

        Returns:
            `text` `[B]` bytes, `token_ids` `[B, U]`, `token_lengths` `[B]` and `log_probability`
            `[B]`. With a beam search also `beam_texts` `[B, N]` bytes and `beam_scores` `[B, N]`,
            best first, padded with empty texts of score -inf.
        """
        if self._in_graph:
            return dict(call(inputs, "serving_default"))
        frames, lengths = self.frames(call, inputs)
        outputs = self._outputs(searched(self._search(call), frames, lengths))
        if self._beam is None:
            return outputs
        return outputs | self._beam_outputs(self._beam(call), frames, lengths)

    def _beam_outputs(
        self, search: BeamSearching, frames: np.ndarray, lengths: np.ndarray
    ) -> dict[str, np.ndarray]:
        state = search.advance(search.start(len(frames)), frames, lengths)
        surfaces = self._pipeline["vocabulary"]["surfaces"]
        texts = np.full((len(frames), self._n_best), b"", object)
        scores = np.full(texts.shape, -np.inf, np.float32)
        for row, ranked in enumerate(search.n_best(state, _ALL)):
            for place, one in enumerate(different_texts(ranked, surfaces)[: self._n_best]):
                texts[row, place], scores[row, place] = one.text.encode(), one.score
        return {"beam_texts": texts, "beam_scores": scores}

    def _search(self, call: Call) -> Search:
        if self._frames == "logits":
            return CtcGreedySearch(self._pipeline["blank"], self._hot_scores)
        if self._pipeline.get("durations"):
            return TdtSearch(
                call,
                blank=self._pipeline["blank"],
                state_shape=self._pipeline["state_shape"],
                durations=self._pipeline["durations"],
                max_symbols_per_frame=self._pipeline["max_symbols_per_frame"],
                blank_penalty=self._pipeline.get("blank_penalty", 0.0),
                hot_scores=self._hot_scores,
            )
        return GreedySearch(
            call,
            blank=self._pipeline["blank"],
            state_shape=self._pipeline["state_shape"],
            max_symbols_per_frame=self._pipeline["max_symbols_per_frame"],
            blank_penalty=self._pipeline.get("blank_penalty", 0.0),
            max_window=max_window(self._pipeline),
            vocabulary_size=len(self._pipeline["vocabulary"]["surfaces"]),
            threads=self._threads,
            hot_scores=self._hot_scores,
        )

    def _outputs(self, hypotheses: Sequence[Hypothesis]) -> dict[str, np.ndarray]:
        surfaces = self._pipeline["vocabulary"]["surfaces"]
        lengths = np.array([len(found.tokens) for found in hypotheses], np.int32)
        shape = (len(hypotheses), lengths.max(initial=0))
        token_ids = np.full(shape, self._pipeline["blank"], np.int32)
        for row, found in zip(token_ids, hypotheses, strict=True):
            row[: len(found.tokens)] = found.tokens
        texts = [text_of(found.tokens, surfaces).encode() for found in hypotheses]
        return {
            "text": np.array(texts, object),
            "token_ids": token_ids,
            "token_lengths": lengths,
            "log_probability": np.array([x.log_probability for x in hypotheses], np.float32),
        }

    def frames(self, call: Call, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """See `Decoder.frames`."""
        heard = call(inputs, "listen")
        return heard[self._frames], heard["encoded_lengths"]

    def searches(self, call: Call) -> list[Search]:
        """See `Decoder.searches`."""
        beams = [] if self._beam is None else [self._beam(call)]
        return [self._search(call), *beams]

    def written(
        self, searches: Sequence[Search], states: Sequence, times: FrameTimes | None = None
    ) -> list[Transcription]:
        """See `Decoder.written`."""
        surfaces = self._pipeline["vocabulary"]["surfaces"]
        return _written(searches, states, surfaces, n_best=self._n_best, times=times)

    def transcriptions(self, outputs: Outputs) -> list[Transcription]:
        """See `Decoder.transcriptions`."""
        rows = zip(outputs["text"], outputs["log_probability"], strict=True)
        found = [Transcription(text.decode(), (), _finite(value)) for text, value in rows]
        if self._beam is None:
            return found
        rows = zip(found, outputs["beam_texts"], outputs["beam_scores"], strict=True)
        return [
            with_beam(one, [*map(Alternative, map(bytes.decode, texts), scores)], self._n_best)
            for one, texts, scores in ((x, y, z.tolist()) for x, y, z in rows)
        ]


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


def _finite(log_probability: float) -> float:
    """Returns a log-probability. If it is not finite, the recognized text is meaningless.

    Raises:
        UserError: the log-probability is NaN or infinite.
    """
    if not math.isfinite(log_probability):
        raise UserError.expected(
            "finite scores of the symbols", "NaN or infinity", "Run the model in float32"
        )
    return float(log_probability)


def _written(
    searches: Sequence[Search],
    states: Sequence,
    surfaces: Sequence[str],
    *,
    n_best: int,
    times: FrameTimes | None,
) -> list[Transcription]:
    """Returns the transcriptions of greedy search and perhaps a beam search."""
    found = searches[0].finish(states[0])
    rows = [
        Transcription(text_of(one.tokens, surfaces), (), _finite(one.log_probability))
        for one in found
    ]
    if len(searches) > 1:
        ranked = searches[1].n_best(states[1], _ALL if n_best > 1 else 1)
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


class CtcDecoder:
    """Greedy search of a CTC model, with an optional beam search.

    Args:
        pipeline: content of the model's `pipeline.json`.
        beam: beam search over logits; None for greedy search alone.
        n_best: number of texts of the beam search.
        hot_words: phrases with a higher score in greedy search.
    """

    def __init__(
        self,
        pipeline: Mapping,
        beam: BeamSearching | None = None,
        n_best: int = 1,
        *,
        hot_words: Sequence[HotWord] = (),
    ):
        self._pipeline = pipeline
        self._surfaces: list[str] = pipeline["vocabulary"]["surfaces"]
        greedy = CtcGreedySearch(pipeline["blank"], hot_scores_of(pipeline, hot_words))
        self._searches = [greedy, *([] if beam is None else [beam])]
        self._n_best = n_best

    def preferring(self, hot_words: Sequence[HotWord]) -> "CtcDecoder":
        """See `Decoder.preferring`."""
        return CtcDecoder(self._pipeline, hot_words=hot_words)

    def answer(self, call: Call, inputs: Inputs) -> dict[str, np.ndarray]:
        """See `Decoder.answer`.

        Returns:
            `logits` `[B, T, V]` and `logit_lengths` `[B]`.
        """
        return dict(call(inputs, "serving_default"))

    def transcriptions(self, outputs: Outputs) -> list[Transcription]:
        """See `Decoder.transcriptions`."""
        logits, lengths = outputs["logits"], outputs["logit_lengths"]
        states = [
            search.advance(search.start(len(logits)), logits, lengths) for search in self._searches
        ]
        return self.written(self._searches, states)

    def frames(self, call: Call, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """See `Decoder.frames`; the frames are logits `[B, T, V]`."""
        found = self.answer(call, inputs)
        return found["logits"], found["logit_lengths"]

    def searches(self, call: Call) -> list[Search]:
        """See `Decoder.searches`."""
        return self._searches

    def written(
        self, searches: Sequence[Search], states: Sequence, times: FrameTimes | None = None
    ) -> list[Transcription]:
        """See `Decoder.written`."""
        return _written(searches, states, self._surfaces, n_best=self._n_best, times=times)
