"""Decoders: the outputs of a recognizer to transcriptions, whatever runs the model."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.greedy import GreedySearch
from tools.decoding.protocol import Call, Hypothesis
from tools.decoding.text import text_of
from tools.decoding.timestamps import Word, pieces_of, words_of
from tools.errors import UserError
from tools.speech.long_audio import Window, stitched

Inputs = Mapping[str, np.ndarray]  # `waveforms` [B, S] and `lengths` [B]
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Transcription:
    """What a recognizer heard in one sound.

    Attributes:
        text: of greedy search.
        words: with their times in seconds, where they were asked for.
        log_probability: of the path that greedy search took, in nats.
        beam_text: of a beam search, where there was one.
        duration_seconds: of the sound, where it is known.
    """

    text: str
    words: tuple[Word, ...] = ()
    log_probability: float | None = None
    beam_text: str | None = None
    duration_seconds: float | None = None

    def lasting(self, seconds: float) -> "Transcription":
        """Gives the same with the duration of the sound."""
        return replace(self, duration_seconds=seconds)


class Decoder(Protocol):
    """Turns a padded batch into transcriptions.

    Attributes:
        has_words: whether transcriptions can have words with their times.
    """

    has_words: bool

    def answer(self, call: Call, inputs: Inputs) -> dict[str, np.ndarray]:
        """Gives the outputs of `serving_default`.

        Args:
            call: runs a signature of the model.
            inputs: `waveforms` `[B, S]` and `lengths` `[B]`.
        """

    def transcriptions(self, outputs: Outputs, with_words: bool = False) -> list[Transcription]:
        """Reads the outputs of `answer`.

        Raises:
            UserError: a score in them is not finite.
        """


class TransducerDecoder:
    """Greedy search of a transducer: in the model's graph where it has one, else on the host.

    Args:
        pipeline: `pipeline.json` of the model.
        in_graph: whether the runner has the signature `serving_default`.
    """

    has_words = False

    def __init__(self, pipeline: Mapping, in_graph: bool):
        self._pipeline, self._in_graph = pipeline, in_graph

    def answer(self, call: Call, inputs: Inputs) -> dict[str, np.ndarray]:
        """See `Decoder.answer`.

        Returns:
            `text` `[B]` bytes, `token_ids` `[B, U]`, `token_lengths` `[B]` and `log_probability`
            `[B]`.
        """
        if self._in_graph:
            return dict(call(inputs, "serving_default"))
        heard = call(inputs, "listen")
        encoded, lengths = heard["encoded"], heard["encoded_lengths"]
        search = GreedySearch(
            call,
            blank=self._pipeline["blank"],
            state_shape=self._pipeline["state_shape"],
            max_symbols_per_frame=self._pipeline["max_symbols_per_frame"],
        )
        state = search.advance(search.start(len(encoded)), encoded, lengths)
        return self._outputs(search.finish(state))

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
        """See `Decoder.transcriptions`; there are no words."""
        rows = zip(outputs["text"], outputs["log_probability"], strict=True)
        return [Transcription(text.decode(), (), _finite(value)) for text, value in rows]


def _finite(log_probability: float) -> float:
    """Refuses what came of scores that are not finite: the text would mean nothing.

    Raises:
        UserError: it is NaN or an infinity.
    """
    if not math.isfinite(log_probability):
        raise UserError.expected(
            "finite scores of the symbols", "NaN or infinity", "Run the model in float32"
        )
    return float(log_probability)


class CtcDecoder:
    """Greedy search of a CTC model, a beam search beside it, and recordings of any length.

    Args:
        pipeline: `pipeline.json` of the model.
        beam: gives the text of `[T, V]` logits by a beam search; None: there is none.
    """

    def __init__(self, pipeline: Mapping, beam: Callable[[np.ndarray], str] | None = None):
        self._surfaces: list[str] = pipeline["vocabulary"]["surfaces"]
        self._blank = pipeline["blank"]
        self._search = CtcGreedySearch(self._blank)
        self._beam = beam
        self.has_words = beam is None  # a beam search gives none, and has another text
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
        """Recognizes a recording chunk by chunk.

        Of the whole only the tokens are kept; a beam search keeps its logits.

        Args:
            call: runs a signature of the model.
            pieces: the recording, `[S]` each.
            num_samples: of all of them.
            window: how it is cut.
            batch_size: chunks run together.
            with_words: whether the transcription has words.
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
            if said == 0:  # silence: its frames keep their places
                rows[-1] = np.broadcast_to(silence, rows[-1].shape)
        return rows

    def _transcription(
        self, found: Hypothesis, beam_text: str | None, with_words: bool
    ) -> Transcription:
        words = words_of(pieces_of(found, self._surfaces, self._seconds)) if with_words else ()
        text = text_of(found.tokens, self._surfaces)
        return Transcription(text, tuple(words), _finite(found.log_probability), beam_text)

    def _seconds(self, frame: int) -> float:
        """The time of a frame, which stands for the hop in the middle of the samples it sees."""
        margin = (self._window_samples - self._hop_samples) / 2
        return (frame * self._hop_samples + margin) / self._rate_hz
