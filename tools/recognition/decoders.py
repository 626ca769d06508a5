"""Decoders: convert the outputs of a recognizer to transcriptions, for every runtime."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.greedy import GreedySearch
from tools.decoding.hotwords import HotWord
from tools.decoding.protocol import BeamSearching, Call, Hypothesis, Ranked, Search
from tools.decoding.text import text_of
from tools.decoding.timestamps import Word, pieces_of, words_of
from tools.errors import UserError
from tools.recognition.beams import hot_scores_of, max_window
from tools.speech.long_audio import Window, stitched

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
        words: words with their times in seconds; empty if they were not requested.
        log_probability: log-probability of the path of greedy search, in nats.
        beam_text: text from beam search, or None without a beam search.
        n_best: different texts of the beam search, best first; empty if one text was requested.
        duration_seconds: length of the sound, or None if it is not known.
    """

    text: str
    words: tuple[Word, ...] = ()
    log_probability: float | None = None
    beam_text: str | None = None
    n_best: tuple[Alternative, ...] = ()
    duration_seconds: float | None = None

    def lasting(self, seconds: float) -> "Transcription":
        """Returns a copy with the length of the sound."""
        return replace(self, duration_seconds=seconds)


class Decoder(Protocol):
    """Converts a padded batch to transcriptions.

    Attributes:
        has_words: whether transcriptions can contain words with their times.
    """

    has_words: bool

    def answer(self, call: Call, inputs: Inputs) -> dict[str, np.ndarray]:
        """Returns the outputs of `serving_default`.

        Args:
            call: function that runs a signature of the model.
            inputs: `waveforms` `[B, S]` float32 and `lengths` `[B]` int32.
        """

    def transcriptions(self, outputs: Outputs, with_words: bool = False) -> list[Transcription]:
        """Converts the outputs of `answer` to B transcriptions.

        Args:
            outputs: result of `answer`.
            with_words: whether to return words with their times.

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
    """

    has_words = False

    def __init__(
        self,
        pipeline: Mapping,
        in_graph: bool,
        beam: Callable[[Call], BeamSearching] | None = None,
        n_best: int = 1,
        *,
        hot_words: Sequence[HotWord] = (),
    ):
        self._pipeline, self._beam, self._n_best = pipeline, beam, n_best
        self._hot_scores = hot_scores_of(pipeline, hot_words)
        self._in_graph = in_graph and beam is None and self._hot_scores is None
        # Output of `listen` that the search decodes.
        self._frames = "logits" if pipeline.get("head") == "ctc" else "encoded"

    def answer(self, call: Call, inputs: Inputs) -> dict[str, np.ndarray]:
        """See `Decoder.answer`.

        Returns:
            `text` `[B]` bytes, `token_ids` `[B, U]`, `token_lengths` `[B]` and `log_probability`
            `[B]`. With a beam search also `beam_texts` `[B, N]` bytes and `beam_scores` `[B, N]`,
            best first, padded with empty texts of score -inf.
        """
        if self._in_graph:
            return dict(call(inputs, "serving_default"))
        heard = call(inputs, "listen")
        frames, lengths = heard[self._frames], heard["encoded_lengths"]
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
        return GreedySearch(
            call,
            blank=self._pipeline["blank"],
            state_shape=self._pipeline["state_shape"],
            max_symbols_per_frame=self._pipeline["max_symbols_per_frame"],
            blank_penalty=self._pipeline.get("blank_penalty", 0.0),
            max_window=max_window(self._pipeline),
            vocabulary_size=len(self._pipeline["vocabulary"]["surfaces"]),
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

    def transcriptions(self, outputs: Outputs, with_words: bool = False) -> list[Transcription]:
        """See `Decoder.transcriptions`; the result has no words."""
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


class CtcDecoder:
    """Greedy search of a CTC model, with an optional beam search, also for long recordings.

    Args:
        pipeline: content of the model's `pipeline.json`.
        beam: beam search over logits; None for greedy search alone.
        n_best: number of texts of the beam search.
        hot_words: phrases with a higher score in greedy search.
    """

    has_words = True

    def __init__(
        self,
        pipeline: Mapping,
        beam: BeamSearching | None = None,
        n_best: int = 1,
        *,
        hot_words: Sequence[HotWord] = (),
    ):
        self._surfaces: list[str] = pipeline["vocabulary"]["surfaces"]
        self._blank = pipeline["blank"]
        self._search = CtcGreedySearch(self._blank, hot_scores_of(pipeline, hot_words))
        self._beam, self._n_best = beam, n_best
        self._hop_samples = pipeline["hop_samples"]
        self._window_samples = pipeline["receptive_field_samples"]
        self._rate_hz = pipeline["sample_rate_hz"]

    def answer(self, call: Call, inputs: Inputs) -> dict[str, np.ndarray]:
        """See `Decoder.answer`.

        Returns:
            `logits` `[B, T, V]` and `logit_lengths` `[B]`.
        """
        return dict(call(inputs, "serving_default"))

    def transcriptions(self, outputs: Outputs, with_words: bool = False) -> list[Transcription]:
        """See `Decoder.transcriptions`."""
        logits, lengths = outputs["logits"], outputs["logit_lengths"]
        state = None
        if self._beam is not None:
            state = self._beam.advance(self._beam.start(len(logits)), logits, lengths)
        return self._transcriptions(searched(self._search, logits, lengths), state, with_words)

    def of_long(
        self,
        call: Call,
        pieces: Iterable[np.ndarray],
        num_samples: int,
        *,
        window: Window,
        batch_size: int,
        with_words: bool = False,
    ) -> Transcription:
        """Recognizes a long recording chunk by chunk.

        Keeps only the tokens and the beams in memory.

        Args:
            call: function that runs a signature of the model.
            pieces: the recording as `[S]` float32 arrays.
            num_samples: length of the recording.
            window: how the recording is divided into chunks.
            batch_size: number of chunks in a batch.
            with_words: whether to return words with their times.

        Raises:
            UserError: a score is not finite.
        """

        def frames(waveforms, lengths):
            return self._frames(call, waveforms, lengths)

        searches = [self._search, *([] if self._beam is None else [self._beam])]
        states = [search.start(1) for search in searches]
        for logits in stitched(pieces, num_samples, window, frames, batch_size=batch_size):
            for number, search in enumerate(searches):
                length = np.array([len(logits)])
                states[number] = search.advance(states[number], logits[None], length)
        found = self._search.finish(states[0])
        return self._transcriptions(found, states[1] if states[1:] else None, with_words)[0]

    def _frames(self, call, waveforms, lengths) -> list[np.ndarray]:
        found, rows = self.answer(call, {"waveforms": waveforms, "lengths": lengths}), []
        silence = np.zeros(len(self._surfaces), np.float32)  # logits of a silent frame
        silence[self._blank] = 100.0
        for logits, length, said in zip(
            found["logits"], lengths, found["logit_lengths"], strict=True
        ):
            rows.append(logits[: (length - self._window_samples) // self._hop_samples + 1])
            if said == 0:  # silence has no logits: fill its frames to keep the times right
                rows[-1] = np.broadcast_to(silence, rows[-1].shape)
        return rows

    def _transcriptions(
        self, found: Sequence[Hypothesis], state: object, with_words: bool
    ) -> list[Transcription]:
        """Returns the transcriptions of all rows.

        Args:
            found: hypotheses of greedy search.
            state: state of the beam search, or None without one.
            with_words: whether to add words, of the beam search if there is one.
        """
        rows = [
            Transcription(
                text_of(one.tokens, self._surfaces),
                self._words(one) if with_words and state is None else (),
                _finite(one.log_probability),
            )
            for one in found
        ]
        if state is None:
            return rows
        ranked = self._beam.n_best(state, self._n_best)
        if with_words:
            rows = [
                replace(row, words=self._words(one[0].hypothesis))
                for row, one in zip(rows, ranked, strict=True)
            ]
        return [
            with_beam(row, different_texts(one, self._surfaces), self._n_best)
            for row, one in zip(rows, ranked, strict=True)
        ]

    def _words(self, found: Hypothesis) -> tuple[Word, ...]:
        return tuple(words_of(pieces_of(found, self._surfaces, self._seconds)))

    def _seconds(self, frame: int) -> float:
        """Returns the start time of the hop in the middle of a frame's receptive field."""
        margin = (self._window_samples - self._hop_samples) / 2
        return (frame * self._hop_samples + margin) / self._rate_hz
