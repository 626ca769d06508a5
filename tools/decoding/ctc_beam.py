"""CTC prefix beam search with an n-gram language model of words and hot words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.decoding import ctc_beam_kernel as kernel
from tools.decoding import text_kernel
from tools.decoding.confidence import confidences
from tools.decoding.fusion import Fusion
from tools.decoding.hotwords import HotWord
from tools.decoding.options import BeamSearch
from tools.decoding.protocol import Hypothesis, Ranked
from tools.decoding.texts import Texts
from tools.decoding.token_tree import compact

_LEAST = math.log(1e-15)  # of a symbol in a frame
_NUM_NODES = 4096  # initial size of the tree of symbols of a row
_NOTHING = np.zeros(0, np.float32)


@dataclass(slots=True)
class CtcBeamState:
    """State of `CtcBeamSearch` for B rows.

    Attributes:
        rows: beams of each row; columns are named in `tools.decoding.ctc_beam_kernel`.
        confidences: `[T]` confidence of each frame, in pieces, for each row.
    """

    rows: list[kernel.Row]
    confidences: list[list[np.ndarray]]


class CtcBeamSearch:
    """CTC prefix beam search over logits, whose result does not depend on how frames are cut.

    Beams are different texts, with a blank at the end or without. Their score is the
    log-probability of all paths that were kept, plus for each word `weight` times the natural
    logarithm of its probability in the language model and the word bonus. An unknown word, also an
    unfinished one, loses `unknown_offset`. Hot words add the scores of
    `tools.decoding.hot_graph.HotGraph`.

    Args:
        surfaces: text that each of V symbols adds. Symbols with an empty text act like the blank.
        blank: index of the blank symbol.
        options: width, weights and limits.
        fusion: language model; None to search without one.
        hot_words: phrases with a higher score.
        keeps_history: whether beams may differ only in words that no longer change the language
            model's scores. Needed for lists of several hypotheses.

    Raises:
        UserError: no word of the language model consists of the letters of the symbols.

    Source: pyctcdecode 0.5.0, whose best text this search finds with the same options, except that
        no empty word is scored at the end of a text that ends with a space; Hannun et
        al., First-pass large vocabulary continuous speech recognition using bi-directional
        recurrent DNNs (2014).
    """

    def __init__(
        self,
        surfaces: Sequence[str],
        blank: int,
        options: BeamSearch,
        fusion: Fusion | None = None,
        *,
        hot_words: Sequence[HotWord] = (),
        keeps_history: bool = False,
    ):
        self._texts = Texts(
            surfaces, blank, options, fusion, hot_words=hot_words, keeps_history=keeps_history
        )
        self._settings = self._texts.known().settings
        num_symbols = len(self._texts.writing) + 1
        # Hot words may need symbols down to `beam_prune`.
        least = min(options.token_min, options.beam_prune) if hot_words else options.token_min
        if least > -20:  # so many symbols can be as probable
            num_symbols = min(num_symbols, int(math.exp(-least)) + 1)
        self._num_candidates = options.width * num_symbols

    def start(self, batch_size: int) -> CtcBeamState:
        """See `Search.start`."""
        width = self._settings.width
        num_nodes = max(_NUM_NODES, 2 * width)
        rows = []
        for _ in range(batch_size):
            row = kernel.Row(
                *self._texts.start(width),
                nodes=np.empty((num_nodes, kernel.NODE_COLUMNS), np.int32),
                counts=np.array([1, 0, 0]),
            )
            row.beams[0, [text_kernel.LAST, text_kernel.NODE]] = -1
            rows.append(row)
        return CtcBeamState(rows, [[] for _ in rows])

    def advance(
        self, state: CtcBeamState, encoded: np.ndarray, lengths: np.ndarray
    ) -> CtcBeamState:
        """Decodes logits `[B, T, V]`; see `Search.advance`."""
        scratch = self._texts.scratch(self._num_candidates)
        for number, (logits, length) in enumerate(zip(encoded, lengths, strict=True)):
            columns = self._columns(logits[:length])
            state.rows[number] = self._advance_row(state.rows[number], columns, scratch)
            state.confidences[number].append(confidences(logits[:length]))
        return state

    def finish(self, state: CtcBeamState) -> list[Hypothesis]:
        """Returns the best hypothesis of each row; see `Search.finish`."""
        return [ranked[0].hypothesis for ranked in self.n_best(state, 1)]

    def n_best(self, state: CtcBeamState, size: int) -> list[list[Ranked]]:
        """Returns up to `size` hypotheses of each row with different texts, best first."""
        scratch = self._texts.scratch(self._num_candidates)
        certain = [np.concatenate([_NOTHING, *pieces]) for pieces in state.confidences]
        rows = zip(state.rows, certain, strict=True)
        return [self._ranked(row, size, scratch, frames) for row, frames in rows]

    def _columns(self, logits: np.ndarray) -> np.ndarray:
        """Returns log-probabilities `[T, K + 1]`, of all symbols without text in front."""
        scores = logits.astype(np.float64)
        with np.errstate(invalid="ignore"):  # NaN has no best symbol and ends all beams
            scores -= scores.max(axis=-1, keepdims=True)
            scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
            silent = np.logaddexp.reduce(scores[:, self._texts.silent], axis=-1)
        columns = np.concatenate([silent[:, None], scores[:, self._texts.writing]], axis=-1)
        return np.clip(columns, _LEAST, 0.0)

    def _advance_row(
        self, row: kernel.Row, columns: np.ndarray, scratch: text_kernel.Scratch
    ) -> kernel.Row:
        while len(columns):
            num_frames, reason = kernel.advance_row(columns, row, self._texts.known(), scratch)
            columns = columns[num_frames:]
            if reason == kernel.QUESTIONS:
                self._texts.answer(scratch)
            elif reason == kernel.NODES_FULL:
                leaves = row.beams[: row.counts[kernel.NUM_BEAMS], text_kernel.NODE]
                num_left = compact(row.nodes, row.counts[kernel.NUM_NODES], leaves)
                row.counts[kernel.NUM_NODES] = num_left
                if 2 * row.counts[kernel.NUM_NODES] > len(row.nodes):
                    nodes = np.concatenate([row.nodes, np.empty_like(row.nodes)])
                    row = row._replace(nodes=nodes)
        return row

    def _ranked(
        self, row: kernel.Row, size: int, scratch: text_kernel.Scratch, certain: np.ndarray
    ) -> list[Ranked]:
        order = kernel.finish_row(row, self._texts.known(), scratch)
        while self._texts.answer(scratch):
            order = kernel.finish_row(row, self._texts.known(), scratch)
        if len(order) == 0:  # the logits were not numbers
            nothing = np.zeros(0, np.int32)
            return [Ranked(Hypothesis(nothing, nothing, nothing, _NOTHING, math.nan), math.nan)]
        return [
            Ranked(self._hypothesis(row.nodes, scratch, index, certain), scratch.totals[index])
            for index in order[:size].tolist()
        ]

    def _hypothesis(
        self, nodes: np.ndarray, scratch: text_kernel.Scratch, index: int, certain: np.ndarray
    ) -> Hypothesis:
        integers, path = scratch.integers[index], []
        node = integers[text_kernel.NODE]
        while node >= 0:
            path.append(nodes[node])
            node = nodes[node, 0]
        path = np.array(path[::-1], np.int32).reshape(-1, kernel.NODE_COLUMNS)
        ends = np.append(path[1:, 3], integers[text_kernel.END]).astype(np.int32)[: len(path)]
        tokens = self._texts.writing[path[:, 1] - 1].astype(np.int32)
        starts, score = path[:, 2], float(scratch.floats[index, text_kernel.ACOUSTIC])
        found = [certain[x:y].max(initial=0.0) for x, y in zip(starts, ends, strict=True)]
        return Hypothesis(tokens, starts, ends, np.array(found, np.float32), score)
