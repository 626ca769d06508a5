"""Converts the outputs of CTC models to transcriptions, for every runtime."""

from collections.abc import Mapping, Sequence

import numpy as np

from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.hotwords import HotWord
from tools.decoding.protocol import BeamSearching, Call, Search
from tools.recognition.beams import hot_scores_of
from tools.recognition.decoders import Inputs, Outputs, Transcription, written_by
from tools.recognition.word_times import FrameTimes


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
        return written_by(searches, states, self._surfaces, n_best=self._n_best, times=times)
