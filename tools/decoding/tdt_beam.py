"""Beam search of token-and-duration transducers in Python, with `predict` and `join` of a model."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from tools.decoding.confidence import confidences
from tools.decoding.networks import Networks
from tools.decoding.options import TDT_ROOM
from tools.decoding.options import TransducerBeamSearch as Options
from tools.decoding.protocol import Call, Hypothesis, Ranked
from tools.decoding.transducer_beam import MORE_CANDIDATES

if TYPE_CHECKING:
    from tools.decoding.texts import Texts


class _Node(NamedTuple):
    """A token of a hypothesis, and the node of the token before it."""

    before: "_Node | None"
    token: int
    start: int
    duration: int
    confidence: float


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Output:
    """Output `[1, P or J]` of the prediction network and its states."""

    predicted: np.ndarray
    states: np.ndarray


@dataclass(slots=True, eq=False)
class _Beam:
    """A hypothesis.

    Attributes:
        key: hash and number of the tokens.
        score: what ranks hypotheses: the log-probability with the blank's penalty and the share.
        log_probability: of all paths with these tokens that have reached the frame.
        share: score of the words so far.
        node: the last token of the best path; None without tokens.
        source: output of the prediction network before `unread`.
        unread: token that the network has not read yet, or -1.
        texts: columns of `tools.decoding.texts.Texts`; None without them.
    """

    key: tuple[int, int]
    score: float
    log_probability: float
    share: float
    node: _Node | None
    source: _Output
    unread: int = -1
    texts: tuple[np.ndarray, np.ndarray] | None = None


Beams = dict[tuple[int, int], _Beam]


@dataclass(slots=True)
class TdtBeamState:
    """State of `TdtBeamSearch`.

    Attributes:
        rows: hypotheses of each row by the frame that they decode next.
        frames: `[B]` frames that the pieces so far had.
        outputs: outputs of the prediction network that hypotheses use, by their tokens.
    """

    rows: list[dict[int, Beams]]
    frames: np.ndarray
    outputs: WeakValueDictionary


class TdtBeamSearch:
    """Beam search of a token-and-duration transducer.

    A step of a hypothesis adds a symbol or a blank, and moves on by a duration. The rules are those
    of `tools.decoding.tdt.TdtSearch`: a blank of duration 0 moves on by one frame, and so does the
    last of `max_symbols_per_frame` symbols of duration 0. Hypotheses with the same tokens that
    reach the same frame are merged: their probabilities are added. A frame keeps `TDT_ROOM` times
    as many hypotheses as the beam is wide until it is decoded. One call of `join` serves the
    hypotheses of all rows. `tools.decoding.graph_tdt_beam` is the same search in a graph.

    Args:
        call: runs the signatures of `tools.decoding.networks.Networks`; see `TdtSearch`.
        blank: index of the blank symbol.
        state_shape: shape of the prediction network's states for one row.
        durations: N numbers of frames.
        max_symbols_per_frame: see above.
        blank_penalty: subtracted from the log probability of the blank in the scores that rank
            hypotheses. A positive value emits more symbols.
        projects: see `Networks`.
        max_window: see `Networks`; a step needs one frame.
        options: width and limits. Hypotheses that are worse than the best one of their frame by
            more than `beam_prune` are dropped. Within a frame, the best one of all steps counts.
        texts: language model and hot words; None for none.

    Source: Xu et al., Token-and-duration transducer (2023), section 3; Saon et al.,
        Alignment-length synchronous decoding for RNN transducer (2020), section 2, time synchronous
        decoding.
    """

    def __init__(
        self,
        call: Call,
        *,
        blank: int,
        state_shape: Sequence[int],
        durations: Sequence[int],
        max_symbols_per_frame: int,
        blank_penalty: float = 0.0,
        projects: bool = False,
        max_window: int = 1,
        options: Options,
        texts: "Texts | None" = None,
    ):
        self._networks = Networks(call, projects=projects, max_window=max_window)
        self._blank, self._blank_penalty = blank, float(blank_penalty)
        self._state_shape, self._max_symbols = tuple(state_shape), max_symbols_per_frame
        self._durations, self._options, self._texts = tuple(durations), options, texts

    def start(self, batch_size: int) -> TdtBeamState:
        """Runs the prediction network on a blank; see `Search.start`."""
        states = np.zeros((1, *self._state_shape), np.float32)
        (output,) = self._predict(np.array([self._blank]), states)
        key = (0, 0)
        texts: list = [None] * batch_size
        if self._texts is not None:
            texts = [*zip(*self._texts.start(batch_size), strict=True)]
        rows = [{0: {key: _Beam(key, 0.0, 0.0, 0.0, None, output, texts=x)}} for x in texts]
        outputs = WeakValueDictionary({key: output})
        return TdtBeamState(rows, np.zeros(batch_size, np.int64), outputs)

    def advance(
        self, state: TdtBeamState, encoded: np.ndarray, lengths: np.ndarray
    ) -> TdtBeamState:
        """Decodes encoded frames `[B, T, D]`; see `Search.advance`.

        Durations that lead beyond these frames skip the first ones of the next piece.
        """
        projected = self._networks.project(encoded)
        for place in range(int(max(lengths, default=0))):
            frames = state.frames + place
            current = [
                (row, one)
                for row in np.flatnonzero(lengths > place).tolist()
                for one in self._best(state.rows[row].pop(int(frames[row]), {}).values())
            ]
            leading = np.full(len(encoded), -np.inf)
            for number in range(self._max_symbols):
                if not current:
                    break
                at = (projected[:, place], frames, leading)
                stays = self._step(state, current, at, number + 1)
                current = [
                    (row, x)
                    for row in stays
                    for x in self._best(stays[row].values(), float(leading[row]))
                ]
        state.frames = state.frames + lengths
        return state

    def finish(self, state: TdtBeamState) -> list[Hypothesis]:
        """Returns the best hypothesis of each row; see `Search.finish`."""
        return [ranked[0].hypothesis for ranked in self.n_best(state, 1)]

    def n_best(self, state: TdtBeamState, size: int) -> list[list[Ranked]]:
        """Returns up to `size` hypotheses of each row with different tokens, best first."""
        found = []
        for beams in state.rows:
            ended: Beams = {}
            for frame in sorted(beams):
                for one in beams[frame].values():
                    _add(ended, one)
            listed = [*ended.values()]
            scores = np.array([one.score for one in listed])
            if self._texts is not None:
                shares = np.array([one.share for one in listed])
                scores += self._texts.ended(*_columns(listed)) - shares
            if self._options.norm_score:
                scores /= np.maximum([one.key[1] for one in listed], 1)
            order = np.argsort(-scores, kind="stable")[:size].tolist()
            found.append([Ranked(_hypothesis(listed[i]), float(scores[i])) for i in order])
        return found

    def _best(self, beams: Iterable[_Beam], leading: float = -math.inf) -> list[_Beam]:
        """Returns the best hypotheses that are close to the best one and to a score."""
        ordered = sorted(beams, key=lambda one: -one.score)[: self._options.width]
        least = max([leading, *(x.score for x in ordered[:1])]) - self._options.beam_prune
        return [x for x in ordered if x.score >= least]

    def _step(
        self,
        state: TdtBeamState,
        current: list[tuple[int, _Beam]],
        at: tuple[np.ndarray, np.ndarray, np.ndarray],
        number: int,
    ) -> dict[int, Beams]:
        """Adds a blank or the symbol of this number in the frame to each hypothesis.

        Args:
            state: gets the hypotheses that have moved on.
            current: rows and hypotheses, sorted by rows.
            at: `[B, D or J]` projected frames, their `[B]` numbers, and the `[B]` best scores of
                the steps in the frame so far, which are updated.
            number: number of the symbol, from 1.

        Returns:
            The hypotheses that stay in the frame, by row.
        """
        projected, frames, leading = at
        rows, beams = np.array([row for row, _ in current]), [one for _, one in current]
        self._read(state, beams)
        predicted = np.stack([one.source.predicted for one in beams])
        logits = self._networks.join(projected[rows][:, None], predicted)[:, 0]
        symbols, lasting = np.split(logits, [logits.shape[1] - len(self._durations)], axis=1)
        scores, lasting = _log_softmax(symbols), _log_softmax(lasting)
        certain, held = confidences(symbols), np.array([one.score for one in beams])
        longest = lasting.max(axis=1)
        blanks = held + scores[:, self._blank] - self._blank_penalty
        np.maximum.at(leading, rows, blanks + longest)
        stays: dict[int, Beams] = {}
        for index, (row, one) in enumerate(current):
            blank = float(scores[index, self._blank])
            for duration, score in zip(self._durations, lasting[index].tolist(), strict=True):
                moved = replace(
                    one,
                    score=one.score + blank + score - self._blank_penalty,
                    log_probability=one.log_probability + blank + score,
                )
                _add(self._at(state, row, int(frames[row]) + max(duration, 1)), moved)
        parents, tokens, gains, texts = self._candidates(beams, scores, rows)
        totals, row_of = held[parents] + gains, rows[parents]
        np.maximum.at(leading, row_of, totals + longest[parents])
        for row in np.unique(row_of).tolist():
            of_row = np.flatnonzero(row_of == row)
            for place, duration in enumerate(self._durations):
                frame, target = int(frames[row]), None
                if duration or number == self._max_symbols:
                    target = self._at(state, row, frame + max(duration, 1))
                else:
                    target = stays.setdefault(row, {})
                all_of = totals[of_row] + lasting[parents[of_row], place]
                for best in of_row[np.argsort(-all_of, kind="stable")[: self._options.width]]:
                    index, token = int(parents[best]), int(tokens[best])
                    one, share = beams[index], 0.0
                    gain = float(scores[index, token] + lasting[index, place])
                    if texts is not None:
                        share = float(texts[2][best])
                    node = _Node(one.node, token, frame, duration, float(certain[index]))
                    longer = _Beam(
                        key=(hash((one.key[0], token)), one.key[1] + 1),
                        score=one.score + gain + share - one.share,
                        log_probability=one.log_probability + gain,
                        share=share,
                        node=node,
                        source=one.source,
                        unread=token,
                        texts=None if texts is None else (texts[0][best], texts[1][best]),
                    )
                    _add(target, longer)
        for row in np.unique(rows).tolist():
            for duration in self._durations:
                self._shorten(self._at(state, row, int(frames[row]) + max(duration, 1)))
        return stays

    def _candidates(
        self, beams: list[_Beam], scores: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple | None]:
        """Returns the extensions that may be among the best of their row for some duration.

        Returns:
            `[M]` indices of hypotheses, `[M]` tokens, `[M]` gains of the score without the
            duration, and the columns and scores of their texts.
        """
        number = self._options.width * (1 if self._texts is None else MORE_CANDIDATES)
        others = scores.copy()
        others[:, self._blank] = -np.inf
        number = min(number, others.shape[1] - 1)
        chosen = np.argpartition(-others, number - 1, axis=1)[:, :number]
        parents = np.repeat(np.arange(len(beams)), number)
        tokens = chosen.reshape(-1)
        gains = others[parents, tokens]
        if self._texts is None:
            return parents, tokens, gains, None
        totals = np.array([one.score for one in beams])[parents] + gains
        limit = self._options.width * MORE_CANDIDATES
        kept = [
            of_row[np.argsort(-totals[of_row], kind="stable")[:limit]]
            for of_row in (np.flatnonzero(rows[parents] == row) for row in np.unique(rows))
        ]
        best = np.concatenate(kept)
        parents, tokens, gains = parents[best], tokens[best], gains[best]
        integers, floats = _columns(beams)
        *texts, shares = self._texts.extended(integers[parents], floats[parents], tokens)
        gains = gains + shares - np.array([one.share for one in beams])[parents]
        return parents, tokens, gains, (*texts, shares)

    def _shorten(self, beams: Beams) -> None:
        """Removes the worst hypotheses of a frame for which it has no room."""
        excess = len(beams) - TDT_ROOM * self._options.width
        for one in sorted(beams.values(), key=lambda one: one.score)[: max(excess, 0)]:
            del beams[one.key]

    @staticmethod
    def _at(state: TdtBeamState, row: int, frame: int) -> Beams:
        """Returns the hypotheses of a row that decode a frame next."""
        return state.rows[row].setdefault(frame, {})

    def _read(self, state: TdtBeamState, beams: Sequence[_Beam]) -> None:
        """Runs the prediction network on the tokens that it has not read yet."""
        # An output lives as long as something refers to it.
        outputs = {one.key: state.outputs.get(one.key) for one in beams if one.unread >= 0}
        unread = {one.key: one for one in beams if one.key in outputs and not outputs[one.key]}
        if unread:
            tokens = np.array([one.unread for one in unread.values()])
            states = np.stack([one.source.states for one in unread.values()])
            made = dict(zip(unread, self._predict(tokens, states), strict=True))
            outputs |= made
            state.outputs.update(made)
        for one in beams:
            if one.unread >= 0:
                one.source, one.unread = outputs[one.key], -1

    def _predict(self, tokens: np.ndarray, states: np.ndarray) -> list[_Output]:
        pairs = zip(*self._networks.predict(tokens, states), strict=True)
        return [_Output(np.array(predicted), np.array(states)) for predicted, states in pairs]


def _add(beams: Beams, one: _Beam) -> None:
    """Adds a hypothesis, or its probability if one with the same tokens is there."""
    other = beams.get(one.key)
    if other is None:
        beams[one.key] = one
        return
    best = one if one.score > other.score else other
    score = float(np.logaddexp(one.score, other.score))
    total = float(np.logaddexp(one.log_probability, other.log_probability))
    beams[one.key] = replace(best, score=score, log_probability=total)


def _columns(beams: Sequence[_Beam]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the columns of texts `[N, I]` and `[N, F]`."""
    integers, floats = zip(*(one.texts for one in beams), strict=True)
    return np.stack(integers), np.stack(floats)


def _hypothesis(one: _Beam) -> Hypothesis:
    """Returns a hypothesis. A token lasts for its duration, which can be 0 frames."""
    path, node = [], one.node
    while node is not None:
        path.append(node)
        node = node.before
    path.reverse()
    starts = np.array([x.start for x in path], np.int32)
    return Hypothesis(
        tokens=np.array([x.token for x in path], np.int32),
        starts=starts,
        ends=starts + np.array([x.duration for x in path], np.int32),
        confidences=np.array([x.confidence for x in path], np.float32),
        log_probability=one.log_probability,
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns float64 log-probabilities of the last axis."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
