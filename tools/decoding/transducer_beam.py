"""Transducer beam search in Python, with the signatures `predict` and `join` of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tools.decoding.confidence import confidences
from tools.decoding.options import TransducerBeamSearch as Options
from tools.decoding.protocol import Call, Hypothesis, Ranked

if TYPE_CHECKING:
    from tools.decoding.texts import Texts  # imports numba

_LARGEST_CALL = 64  # hypotheses in one call of a signature; conversions serve batches of 64
_MORE_CANDIDATES = 8  # symbols that a language model ranks, as a factor of the width
_MIXING = np.int64(-7046029254386353131)  # 2^64 divided by the golden ratio, as a signed number


class Hypotheses(NamedTuple):
    """N hypotheses of several rows.

    Attributes:
        rows: `[N]` row of each hypothesis.
        scores: `[N]` log-probability with the penalty of the blank and `shares`, which ranks the
            hypotheses.
        log_probabilities: `[N]` log-probability of all paths with the same tokens.
        texts: `[N]` int64, hash of the tokens.
        nodes: `[N]` last token in the tree of tokens, -1 without tokens.
        lengths: `[N]` number of tokens.
        sources: `[N]` outputs of the prediction network before `tokens`.
        tokens: `[N]` token that the prediction network has not read yet, or -1.
        shares: `[N]` score of the words so far; 0 without a language model.
        integers: `[N, I]` and
        floats: `[N, F]` the text for `tools.decoding.texts.Texts`.
    """

    rows: np.ndarray
    scores: np.ndarray
    log_probabilities: np.ndarray
    texts: np.ndarray
    nodes: np.ndarray
    lengths: np.ndarray
    sources: np.ndarray
    tokens: np.ndarray
    shares: np.ndarray
    integers: np.ndarray
    floats: np.ndarray

    def take(self, index: np.ndarray) -> "Hypotheses":
        """Returns some hypotheses."""
        return Hypotheses(*(array[index] for array in self))


@dataclass(slots=True)
class TransducerBeamState:
    """State of `TransducerBeamSearch` for all rows.

    Attributes:
        beams: hypotheses of all rows.
        predicted: `[N, 1, P]` output of the prediction network for each hypothesis.
        states: `[N, ...]` states of the prediction network.
        frames: `[B]` frames decoded so far.
        parents: the token before each token of the tree, or -1.
        symbols: the symbol of each token of the tree.
        starts: the frame of each token of the tree.
        confidences: the confidence of each token of the tree.
    """

    beams: Hypotheses
    predicted: np.ndarray
    states: np.ndarray
    frames: np.ndarray
    parents: list[int]
    symbols: list[int]
    starts: list[int]
    confidences: list[float]


class TransducerBeamSearch:
    """Transducer beam search, frame by frame, with a limit of symbols in each frame.

    In each frame a hypothesis emits symbols until a blank or the limit. Hypotheses with the same
    tokens are merged: their probabilities are added. The best ones are kept after each frame.

    Args:
        call: runs `predict` and `join`; see `tools.decoding.greedy.GreedySearch`.
        blank: index of the blank symbol.
        state_shape: shape of the prediction network's states for one row.
        max_symbols_per_frame: number of symbols after which the search moves to the next frame
            without a blank.
        blank_penalty: subtracted from the log probability of the blank in the scores that rank
            hypotheses. A positive value emits more symbols.
        options: width and limits.
        texts: language model and hot words; None for none.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), section 2.6; Saon
        et al., Alignment-length synchronous decoding for RNN transducer (2020), section 2, time
        synchronous decoding.
    """

    def __init__(
        self,
        call: Call,
        *,
        blank: int,
        state_shape: Sequence[int],
        max_symbols_per_frame: int,
        blank_penalty: float = 0.0,
        options: Options,
        texts: "Texts | None" = None,
    ):
        self._call, self._blank, self._blank_penalty = call, blank, blank_penalty
        self._state_shape, self._max_symbols = tuple(state_shape), max_symbols_per_frame
        self._options, self._texts = options, texts

    def start(self, batch_size: int) -> TransducerBeamState:
        """Runs the prediction network on a blank for each row; see `Search.start`."""
        rows = np.arange(batch_size)
        zeros, none = np.zeros(batch_size, np.int64), np.full(batch_size, -1)
        states = np.zeros((batch_size, *self._state_shape), np.float32)
        predicted, states = self._predict(np.full(batch_size, self._blank), states)
        integers = floats = np.zeros((batch_size, 0))
        if self._texts is not None:
            integers, floats = self._texts.start(batch_size)
        beams = Hypotheses(
            rows=rows,
            scores=np.zeros(batch_size),
            log_probabilities=np.zeros(batch_size),
            texts=zeros,
            nodes=none,
            lengths=zeros,
            sources=rows,
            tokens=none,
            shares=np.zeros(batch_size),
            integers=integers,
            floats=floats,
        )
        return TransducerBeamState(beams, predicted, states, zeros.copy(), [], [], [], [])

    def advance(
        self, state: TransducerBeamState, encoded: np.ndarray, lengths: np.ndarray
    ) -> TransducerBeamState:
        """Decodes encoded frames `[B, T, D]`; see `Search.advance`."""
        for frame in range(int(max(lengths, default=0))):
            is_active = lengths > frame
            self._advance_frame(state, encoded[:, frame], is_active)
            state.frames += is_active
        return state

    def finish(self, state: TransducerBeamState) -> list[Hypothesis]:
        """Returns the best hypothesis of each row; see `Search.finish`."""
        return [ranked[0].hypothesis for ranked in self.n_best(state, 1)]

    def n_best(self, state: TransducerBeamState, size: int) -> list[list[Ranked]]:
        """Returns up to `size` hypotheses of each row with different tokens, best first."""
        beams = state.beams
        scores = beams.scores
        if self._texts is not None:
            scores = scores - beams.shares + self._texts.ended(beams.integers, beams.floats)
        if self._options.norm_score:
            scores = scores / np.maximum(beams.lengths, 1)
        found: list[list[Ranked]] = [[] for _ in state.frames]
        for index in np.lexsort((-scores, beams.rows)).tolist():
            ranked = found[beams.rows[index]]
            if len(ranked) < size:
                ranked.append(Ranked(self._hypothesis(state, index), float(scores[index])))
        return found

    def _hypothesis(self, state: TransducerBeamState, index: int) -> Hypothesis:
        """Returns a hypothesis. A token lasts for the one frame in which it was emitted."""
        path, node = [], int(state.beams.nodes[index])
        while node >= 0:
            path.append(node)
            node = state.parents[node]
        path.reverse()
        tokens = np.array([state.symbols[node] for node in path], np.int32)
        starts = np.array([state.starts[node] for node in path], np.int32)
        return Hypothesis(
            tokens,
            starts,
            starts + 1,
            np.array([state.confidences[node] for node in path], np.float32),
            float(state.beams.log_probabilities[index]),
        )

    def _advance_frame(
        self, state: TransducerBeamState, encoded: np.ndarray, is_active: np.ndarray
    ) -> None:
        """Decodes one frame `[B, D]` of the active rows."""
        waiting = state.beams.take(np.flatnonzero(~is_active[state.beams.rows]))
        current = state.beams.take(np.flatnonzero(is_active[state.beams.rows]))
        predicted, states = state.predicted, state.states
        ended = current.take(np.zeros(0, np.int64))
        for number in range(self._max_symbols):
            scores, sums = self._join(encoded[current.rows], predicted[current.sources])
            with_blank = self._with_blank(current, scores[:, self._blank] - sums)
            ended = self._merged(_joined([ended, with_blank]))
            current = self._extended(state, current, (scores, sums), ended)
            if len(current.rows) == 0:
                break
            if number + 1 == self._max_symbols:
                ended = self._merged(_joined([ended, current]))
                break
            more = self._predict(current.tokens, states[current.sources])
            current = current._replace(
                sources=len(predicted) + np.arange(len(current.rows)),
                tokens=np.full(len(current.rows), -1),
            )
            predicted, states = (
                np.concatenate(x) for x in zip((predicted, states), more, strict=True)
            )
        beams = _joined([waiting, self._best(ended)])
        state.predicted, state.states = predicted[beams.sources], states[beams.sources]
        unread = np.flatnonzero(beams.tokens >= 0)
        if len(unread):
            more = self._predict(beams.tokens[unread], state.states[unread])
            state.predicted[unread], state.states[unread] = more
        state.beams = beams._replace(
            sources=np.arange(len(beams.rows)), tokens=np.full(len(beams.rows), -1)
        )

    def _with_blank(self, current: Hypotheses, scores: np.ndarray) -> Hypotheses:
        return current._replace(
            scores=current.scores + scores - self._blank_penalty,
            log_probabilities=current.log_probabilities + scores,
        )

    def _extended(
        self,
        state: TransducerBeamState,
        current: Hypotheses,
        joined: tuple[np.ndarray, np.ndarray],
        ended: Hypotheses,
    ) -> Hypotheses:
        """Returns the best hypotheses with another symbol that may still be among the best."""
        logits, sums = joined
        least = self._least(ended, len(state.frames))
        is_close = logits > (least[current.rows] - current.scores + sums)[:, None]
        is_close[:, self._blank] = False
        parents, symbols = np.nonzero(is_close)
        scores = logits[parents, symbols] - sums[parents]
        totals = current.scores[parents] + scores
        # With a language model, some more candidates have a chance.
        width = self._options.width * (1 if self._texts is None else _MORE_CANDIDATES)
        best = _best_of_rows(current.rows[parents], totals, width)
        parents, symbols, scores, totals = (x[best] for x in (parents, symbols, scores, totals))
        used, places = np.unique(parents, return_inverse=True)
        certain = confidences(logits[used])[places]
        found = current.take(parents)
        if self._texts is not None and len(parents):
            *texts, shares = self._texts.extended(found.integers, found.floats, symbols)
            totals += shares - found.shares
            found = found._replace(shares=shares, integers=texts[0], floats=texts[1])
            best = _best_of_rows(found.rows, totals, self._options.width)
            symbols, scores, totals, certain, found = (
                symbols[best], scores[best], totals[best], certain[best], found.take(best),
            )  # fmt: skip
        first = len(state.parents)
        state.parents += found.nodes.tolist()
        state.symbols += symbols.tolist()
        state.starts += state.frames[found.rows].tolist()
        state.confidences += certain.tolist()
        hashes = (found.texts ^ (symbols + 1)) * _MIXING
        return found._replace(
            scores=totals,
            log_probabilities=found.log_probabilities + scores,
            texts=hashes ^ (hashes >> 29),
            nodes=np.arange(first, len(state.parents)),
            lengths=found.lengths + 1,
            tokens=symbols,
        )

    def _least(self, ended: Hypotheses, num_rows: int) -> np.ndarray:
        """Returns the score that a hypothesis of each row must exceed to be kept."""
        most = np.full(num_rows, -np.inf)
        np.maximum.at(most, ended.rows, ended.scores)
        least = most - self._options.beam_prune
        order = np.lexsort((-ended.scores, ended.rows))
        rows = ended.rows[order]
        last = np.flatnonzero(_places(rows) == self._options.width - 1)
        least[rows[last]] = np.maximum(least[rows[last]], ended.scores[order[last]])
        return least

    def _merged(self, found: Hypotheses) -> Hypotheses:
        """Adds the probabilities of hypotheses with the same tokens; keeps the best one's path."""
        order = np.lexsort((-found.scores, found.texts, found.rows))
        found = found.take(order)
        is_first = np.ones(len(order), bool)
        is_first[1:] = (np.diff(found.rows) != 0) | (np.diff(found.texts) != 0)
        if is_first.all():
            return found
        groups = np.cumsum(is_first) - 1
        firsts = found.take(np.flatnonzero(is_first))
        sums = []
        for values in (found.scores, found.log_probabilities):
            total = np.full(len(firsts.rows), -np.inf)
            np.logaddexp.at(total, groups, values)
            sums.append(total)
        return firsts._replace(scores=sums[0], log_probabilities=sums[1])

    def _best(self, found: Hypotheses) -> Hypotheses:
        """Returns the best hypotheses of each row."""
        return found.take(_best_of_rows(found.rows, found.scores, self._options.width))

    def _predict(self, tokens: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = {"tokens": tokens[:, None].astype(np.int32), "states": states}
        after = self._in_parts(inputs, "predict")
        return after["predicted"], after["next_states"]

    def _join(self, encoded: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits `[N, V]` and the logarithms `[N]` of the sums of their exponentials."""
        inputs = {"encoded": encoded[:, None], "predicted": predicted}
        logits = self._in_parts(inputs, "join")["logits"][:, 0, 0]
        most = logits.max(axis=1)
        sums = np.exp(logits - most[:, None]).sum(axis=1, dtype=np.float64)
        return logits, np.log(sums) + most

    def _in_parts(self, inputs: dict[str, np.ndarray], signature: str) -> dict[str, np.ndarray]:
        size = len(next(iter(inputs.values())))
        parts = [
            self._call({x: y[i : i + _LARGEST_CALL] for x, y in inputs.items()}, signature)
            for i in range(0, size, _LARGEST_CALL)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Hypotheses]) -> Hypotheses:
    """Returns all hypotheses of several sets."""
    parts = [part for part in parts if len(part.rows)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    return Hypotheses(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _best_of_rows(rows: np.ndarray, scores: np.ndarray, width: int) -> np.ndarray:
    """Returns the indices of the best `width` scores of each row."""
    order = np.lexsort((-scores, rows))
    return order[_places(rows[order]) < width]


def _places(rows: np.ndarray) -> np.ndarray:
    """Returns the place of each entry among those of its row, in an array sorted by rows."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)
