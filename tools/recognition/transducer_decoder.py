"""Converts the outputs of transducers to transcriptions, for every runtime."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.greedy import GreedySearch
from tools.decoding.hotwords import HotWord
from tools.decoding.protocol import BeamSearching, Call, Hypothesis, Search
from tools.decoding.tdt import TdtSearch
from tools.decoding.text import text_of
from tools.recognition.beams import hot_scores_of, network_options
from tools.recognition.decoders import (
    ALL,
    Alternative,
    Inputs,
    Outputs,
    Transcription,
    different_texts,
    finite,
    searched,
    with_beam,
    written_by,
)
from tools.recognition.word_times import FrameTimes


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
        for row, ranked in enumerate(search.n_best(state, ALL)):
            for place, one in enumerate(different_texts(ranked, surfaces)[: self._n_best]):
                texts[row, place], scores[row, place] = one.text.encode(), one.score
        return {"beam_texts": texts, "beam_scores": scores}

    def _search(self, call: Call) -> Search:
        pipeline = self._pipeline
        if self._frames == "logits":
            return CtcGreedySearch(pipeline["blank"], self._hot_scores)
        common = {
            "blank": pipeline["blank"],
            "state_shape": pipeline["state_shape"],
            "max_symbols_per_frame": pipeline["max_symbols_per_frame"],
            "blank_penalty": pipeline.get("blank_penalty", 0.0),
            "hot_scores": self._hot_scores,
            **network_options(pipeline),
        }
        if pipeline.get("durations"):
            return TdtSearch(call, durations=pipeline["durations"], **common)
        size = len(pipeline["vocabulary"]["surfaces"])
        return GreedySearch(call, vocabulary_size=size, threads=self._threads, **common)

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
        return written_by(searches, states, surfaces, n_best=self._n_best, times=times)

    def transcriptions(self, outputs: Outputs) -> list[Transcription]:
        """See `Decoder.transcriptions`."""
        rows = zip(outputs["text"], outputs["log_probability"], strict=True)
        found = [Transcription(text.decode(), (), finite(value)) for text, value in rows]
        if self._beam is None:
            return found
        rows = zip(found, outputs["beam_texts"], outputs["beam_scores"], strict=True)
        return [
            with_beam(one, [*map(Alternative, map(bytes.decode, texts), scores)], self._n_best)
            for one, texts, scores in ((x, y, z.tolist()) for x, y, z in rows)
        ]
