"""Transducer beam search in Python, with the signatures `predict` and `join` of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tools.decoding import transducer_kernel as kernel
from tools.decoding.confidence import confidences
from tools.decoding.options import TransducerBeamSearch as Options
from tools.decoding.protocol import Call, Hypothesis, Ranked
from tools.decoding.token_tree import compact

if TYPE_CHECKING:
    from tools.decoding.texts import Texts

_LARGEST_CALL = 64  # hypotheses in one call of a signature; conversions serve batches of 64
_MORE_CANDIDATES = 8  # extensions that a language model ranks, as a factor of the width
_NUM_NODES = 4096  # initial size of the tree of tokens
_NUM_OUTPUTS = 512  # initial number of outputs of the prediction network that are kept


@dataclass(slots=True)
class TransducerBeamState:
    """State of `TransducerBeamSearch` for all rows. N hypotheses are sorted by their rows.

    Attributes:
        integers: `[N, I]` int64, columns are named in `tools.decoding.transducer_kernel`.
        floats: `[N, F]` float64, columns are named there, too.
        frames: `[B]` frames decoded so far.
        nodes: `[M, NODE_COLUMNS]` int32, tokens of all hypotheses as a tree.
        num_nodes: number of nodes in use.
        predicted: `[C, 1, P]` outputs of the prediction network.
        states: `[C, ...]` states of the prediction network.
        places: place of an output by the hash of the tokens that the network has read.
    """

    integers: np.ndarray
    floats: np.ndarray
    frames: np.ndarray
    nodes: np.ndarray
    num_nodes: int
    predicted: np.ndarray
    states: np.ndarray
    places: dict[int, int]


class TransducerBeamSearch:
    """Transducer beam search, frame by frame, with a limit of symbols in each frame.

    In each frame a hypothesis emits symbols until a blank or the limit. Hypotheses with the same
    tokens are merged: their probabilities are added. After each symbol the best ones are kept. One
    call of `join` serves the hypotheses of all rows. The prediction network runs once for each
    sequence of tokens.

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
        self._call, self._blank, self._blank_penalty = call, blank, float(blank_penalty)
        self._state_shape, self._max_symbols = tuple(state_shape), max_symbols_per_frame
        self._options, self._texts = options, texts
        # With a language model, some more extensions have a chance.
        num_wanted = options.width * (1 if texts is None else _MORE_CANDIDATES)
        self._limits = blank, float(options.beam_prune), num_wanted

    def start(self, batch_size: int) -> TransducerBeamState:
        """Runs the prediction network on a blank; see `Search.start`."""
        states = np.zeros((1, *self._state_shape), np.float32)
        predicted, states = self._predict(np.array([self._blank]), states)
        integers = np.zeros((batch_size, kernel.NUM_INTEGERS), np.int64)
        integers[:, kernel.ROW] = np.arange(batch_size)
        integers[:, [kernel.NODE, kernel.TOKEN]] = -1
        floats = np.zeros((batch_size, kernel.NUM_FLOATS))
        if self._texts is not None:
            texts = self._texts.start(batch_size)
            integers, floats = _beside(integers, texts[0]), _beside(floats, texts[1])
        return TransducerBeamState(
            integers=integers,
            floats=floats,
            frames=np.zeros(batch_size, np.int64),
            nodes=np.empty((_NUM_NODES, kernel.NODE_COLUMNS), np.int32),
            num_nodes=0,
            predicted=_room_behind(predicted),
            states=_room_behind(states),
            places={0: 0},  # the hash of no tokens
        )

    def advance(
        self, state: TransducerBeamState, encoded: np.ndarray, lengths: np.ndarray
    ) -> TransducerBeamState:
        """Decodes encoded frames `[B, T, D]`; see `Search.advance`."""
        size = len(state.frames), 2 * self._options.width
        ended = kernel.Ended(
            np.empty((*size, state.integers.shape[1]), np.int64),
            np.empty((*size, state.floats.shape[1])),
            np.zeros(len(state.frames), np.int64),
            self._options.width,
        )
        for frame in range(int(max(lengths, default=0))):
            is_active = np.asarray(lengths > frame)
            self._make_room(state)
            self._advance_frame(state, encoded[:, frame], is_active, ended)
            state.frames += is_active
        return state

    def finish(self, state: TransducerBeamState) -> list[Hypothesis]:
        """Returns the best hypothesis of each row; see `Search.finish`."""
        return [ranked[0].hypothesis for ranked in self.n_best(state, 1)]

    def n_best(self, state: TransducerBeamState, size: int) -> list[list[Ranked]]:
        """Returns up to `size` hypotheses of each row with different tokens, best first."""
        scores, rows = state.floats[:, kernel.SCORE], state.integers[:, kernel.ROW]
        if self._texts is not None:
            ended = self._texts.ended(*_texts_of(state.integers, state.floats))
            scores = scores - state.floats[:, kernel.SHARE] + ended
        if self._options.norm_score:
            scores = scores / np.maximum(state.integers[:, kernel.LENGTH], 1)
        found: list[list[Ranked]] = [[] for _ in state.frames]
        for index in np.lexsort((-scores, rows)).tolist():
            ranked = found[rows[index]]
            if len(ranked) < size:
                ranked.append(Ranked(self._hypothesis(state, index), float(scores[index])))
        return found

    def _hypothesis(self, state: TransducerBeamState, index: int) -> Hypothesis:
        """Returns a hypothesis. A token lasts for the one frame in which it was emitted."""
        path, node = [], int(state.integers[index, kernel.NODE])
        while node >= 0:
            path.append(node)
            node = int(state.nodes[node, kernel.PARENT])
        nodes = state.nodes[path[::-1]]
        return Hypothesis(
            nodes[:, kernel.SYMBOL],
            nodes[:, kernel.START],
            nodes[:, kernel.START] + 1,
            nodes.view(np.float32)[:, kernel.CONFIDENCE],
            float(state.floats[index, kernel.LOG_PROBABILITY]),
        )

    def _make_room(self, state: TransducerBeamState) -> None:
        """Forgets tokens and outputs of the prediction network that no hypothesis needs."""
        if 2 * state.num_nodes > len(state.nodes):
            leaves = state.integers[:, kernel.NODE]
            state.num_nodes = compact(state.nodes, state.num_nodes, leaves)
        if 2 * len(state.places) > len(state.predicted):
            used, places = np.unique(state.integers[:, kernel.SOURCE], return_inverse=True)
            named = zip(state.integers[:, kernel.HASH].tolist(), places.tolist(), strict=True)
            state.places = dict(named)
            for array in (state.predicted, state.states):
                array[: len(used)] = array[used]
            state.integers[:, kernel.SOURCE] = places
            while 4 * len(used) > len(state.predicted):
                state.predicted, state.states = map(_room_behind, (state.predicted, state.states))

    def _advance_frame(
        self,
        state: TransducerBeamState,
        encoded: np.ndarray,
        is_active: np.ndarray,
        ended: kernel.Ended,
    ) -> None:
        """Decodes one frame `[B, D]` of the active rows."""
        integers, floats = state.integers, state.floats
        ended.counts[:] = 0
        if not is_active.all():
            kernel.add_unchanged(ended, (integers, floats), ~is_active)
            of_active = is_active[integers[:, kernel.ROW]]
            integers, floats = integers[of_active], floats[of_active]
        first, steps = state.num_nodes, []
        for number in range(self._max_symbols):
            predicted = state.predicted[integers[:, kernel.SOURCE]]
            logits, sums = self._join(encoded[integers[:, kernel.ROW]], predicted)
            steps.append(logits)
            blanks = logits[:, self._blank] - sums
            kernel.add_blanks(ended, (integers, floats), blanks, self._blank_penalty)
            integers, floats = self._extended(
                state, (integers, floats), (logits, sums), ended, step=number
            )
            if len(integers) == 0:
                break
            if number + 1 == self._max_symbols:
                kernel.add_unchanged(ended, (integers, floats), is_active)
            else:
                self._read(state, integers)
        state.integers, state.floats = kernel.collected(ended)
        self._read(state, state.integers)
        found = kernel.new_nodes(state.integers, state.nodes, (first, state.num_nodes))
        if len(found):
            places = state.nodes[found][:, [kernel.STEP, kernel.PLACE]].tolist()
            logits = np.stack([steps[step][place] for step, place in places])
            state.nodes.view(np.float32)[found, kernel.CONFIDENCE] = confidences(logits)

    def _extended(
        self,
        state: TransducerBeamState,
        hypotheses: tuple[np.ndarray, np.ndarray],
        joined: tuple[np.ndarray, np.ndarray],
        ended: kernel.Ended,
        *,
        step: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best hypotheses with another symbol that may still be among the best."""
        (integers, floats), (logits, sums) = hypotheses, joined
        parents, symbols, totals = kernel.extensions(hypotheses, joined, ended, self._limits)
        texts = None
        if self._texts is not None and len(parents):
            given = _texts_of(integers[parents], floats[parents])
            *texts, shares = self._texts.extended(*given, symbols)
            totals += shares - floats[parents, kernel.SHARE]
            best = _best_of_rows(integers[parents, kernel.ROW], totals, self._options.width)
            parents, symbols, totals = parents[best], symbols[best], totals[best]
            texts, shares = [x[best] for x in texts], shares[best]
        first = state.num_nodes
        state.num_nodes += len(parents)
        while state.num_nodes > len(state.nodes):
            state.nodes = _room_behind(state.nodes)
        gains = logits[parents, symbols] - sums[parents]
        chosen, places = (parents, symbols, totals, gains), (first, step, state.frames)
        integers, floats = kernel.extended(hypotheses, chosen, state.nodes, places)
        if texts is not None:
            integers[:, kernel.NUM_INTEGERS :], floats[:, kernel.NUM_FLOATS :] = texts
            floats[:, kernel.SHARE] = shares
        return integers, floats

    def _read(self, state: TransducerBeamState, integers: np.ndarray) -> None:
        """Reads the tokens that the prediction network has not read yet."""
        unread, places = [], []
        for index in np.flatnonzero(integers[:, kernel.TOKEN] >= 0).tolist():
            key = int(integers[index, kernel.HASH])
            place = state.places.get(key)
            if place is None:
                place = state.places[key] = len(state.places)
                unread.append(index)
                places.append(place)
            else:
                integers[index, [kernel.SOURCE, kernel.TOKEN]] = place, -1
        if not unread:
            return
        while len(state.places) > len(state.predicted):
            state.predicted, state.states = map(_room_behind, (state.predicted, state.states))
        states = state.states[integers[unread, kernel.SOURCE]]
        after = self._predict(integers[unread, kernel.TOKEN], states)
        state.predicted[places], state.states[places] = after
        integers[unread, kernel.SOURCE], integers[unread, kernel.TOKEN] = places, -1

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
        if size <= _LARGEST_CALL:
            return self._call(inputs, signature)
        parts = [
            self._call({x: y[i : i + _LARGEST_CALL] for x, y in inputs.items()}, signature)
            for i in range(0, size, _LARGEST_CALL)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _beside(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.concatenate([one, other], axis=1)


def _room_behind(array: np.ndarray) -> np.ndarray:
    """Returns a copy of an array with room for as many rows again, at least `_NUM_OUTPUTS`."""
    room = np.empty((max(len(array), _NUM_OUTPUTS), *array.shape[1:]), array.dtype)
    return np.concatenate([array, room])


def _texts_of(integers: np.ndarray, floats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the columns of `tools.decoding.texts.Texts`."""
    return (
        np.ascontiguousarray(integers[:, kernel.NUM_INTEGERS :]),
        np.ascontiguousarray(floats[:, kernel.NUM_FLOATS :]),
    )


def _best_of_rows(rows: np.ndarray, scores: np.ndarray, width: int) -> np.ndarray:
    """Returns the indices of the best `width` scores of each row."""
    order = np.lexsort((-scores, rows))
    rows = rows[order]
    return order[np.arange(len(rows)) - np.searchsorted(rows, rows) < width]
