"""Decoders: convert the outputs of a recognizer to transcriptions, for every runtime."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.greedy import GreedySearch
from tools.decoding.protocol import Call, Hypothesis, Search
from tools.decoding.text import text_of
from tools.decoding.timestamps import Word, pieces_of, words_of
from tools.errors import UserError
from tools.speech.long_audio import Window, stitched

Inputs = Mapping[str, np.ndarray]  # `waveforms` [B, S] and `lengths` [B]
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Transcription:
    """The recognized text of one sound.

    Attributes:
        text: text from greedy search.
        words: words with their times in seconds; empty if they were not requested.
        log_probability: log-probability of the path of greedy search, in nats.
        beam_text: text from beam search, or None without a beam search.
        duration_seconds: length of the sound, or None if it is not known.
    """

    text: str
    words: tuple[Word, ...] = ()
    log_probability: float | None = None
    beam_text: str | None = None
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
    """

    has_words = False

    def __init__(self, pipeline: Mapping, in_graph: bool):
        self._pipeline, self._in_graph = pipeline, in_graph
        # Output of `listen` that the search decodes.
        self._frames = "logits" if pipeline.get("head") == "ctc" else "encoded"

    def answer(self, call: Call, inputs: Inputs) -> dict[str, np.ndarray]:
        """See `Decoder.answer`.

        Returns:
            `text` `[B]` bytes, `token_ids` `[B, U]`, `token_lengths` `[B]` and `log_probability`
            `[B]`.
        """
        if self._in_graph:
            return dict(call(inputs, "serving_default"))
        heard = call(inputs, "listen")
        search, frames = self._search(call), heard[self._frames]
        state = search.advance(search.start(len(frames)), frames, heard["encoded_lengths"])
        return self._outputs(search.finish(state))

    def _search(self, call: Call) -> Search:
        if self._frames == "logits":
            return CtcGreedySearch(self._pipeline["blank"])
        return GreedySearch(
            call,
            blank=self._pipeline["blank"],
            state_shape=self._pipeline["state_shape"],
            max_symbols_per_frame=self._pipeline["max_symbols_per_frame"],
            blank_penalty=self._pipeline.get("blank_penalty", 0.0),
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
        return [Transcription(text.decode(), (), _finite(value)) for text, value in rows]


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
        beam: function of `[T, V]` logits that returns the text of a beam search; None for no beam
            search.
    """

    def __init__(self, pipeline: Mapping, beam: Callable[[np.ndarray], str] | None = None):
        self._surfaces: list[str] = pipeline["vocabulary"]["surfaces"]
        self._blank = pipeline["blank"]
        self._search = CtcGreedySearch(self._blank)
        self._beam = beam
        self.has_words = beam is None  # beam search returns no times, and its text may differ
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
        state = self._search.advance(self._search.start(len(logits)), logits, lengths)
        found = self._search.finish(state)
        beam_texts = [None] * len(found)
        if self._beam is not None:
            beam_texts = [self._beam(x[:n]) for x, n in zip(logits, lengths, strict=True)]
        return [self._transcription(*x, with_words) for x in zip(found, beam_texts, strict=True)]

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

        Keeps only the tokens in memory; with a beam search also the logits of the whole recording.

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

        state, kept = self._search.start(1), []
        for logits in stitched(pieces, num_samples, window, frames, batch_size=batch_size):
            state = self._search.advance(state, logits[None], np.array([len(logits)]))
            if self._beam is not None:
                kept.append(logits)
        (found,) = self._search.finish(state)
        beam_text = self._beam(np.concatenate(kept)) if kept else None
        return self._transcription(found, beam_text, with_words)

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

    def _transcription(
        self, found: Hypothesis, beam_text: str | None, with_words: bool
    ) -> Transcription:
        words = words_of(pieces_of(found, self._surfaces, self._seconds)) if with_words else ()
        text = text_of(found.tokens, self._surfaces)
        return Transcription(text, tuple(words), _finite(found.log_probability), beam_text)

    def _seconds(self, frame: int) -> float:
        """Returns the start time of the hop in the middle of a frame's receptive field."""
        margin = (self._window_samples - self._hop_samples) / 2
        return (frame * self._hop_samples + margin) / self._rate_hz
