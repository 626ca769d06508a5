"""Transducer beam search in Python, with the signatures `predict` and `join` of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tools.decoding import transducer_cache as caches
from tools.decoding import transducer_kernel as kernel
from tools.decoding.confidence import log_sums_and_confidences
from tools.decoding.networks import Networks
from tools.decoding.options import TransducerBeamSearch as Options
from tools.decoding.parallel import run_in_parts
from tools.decoding.protocol import Call, Hypothesis, Ranked
from tools.decoding.token_tree import compact

if TYPE_CHECKING:
    from tools.decoding.texts import Texts

MORE_CANDIDATES = 8  # extensions that a language model ranks, as a factor of the width
_NUM_NODES = 4096  # initial size of the tree of tokens
_WINDOW = 3  # frames for which a hypothesis gets logits at once; many hypotheses do not last longer


@dataclass(slots=True)
class TransducerBeamState:
    """State of `TransducerBeamSearch` for B rows.

    Attributes:
        beams: hypotheses of the rows.
        cache: logits, and places of the outputs of the prediction network.
        requests: what the compiled loop asks for.
        nodes: `[M, NODE_COLUMNS]` int32, tokens of all hypotheses as a tree.
        predicted: `[B, K, 1, P or J]` outputs of the prediction network.
        states: `[B, K, ...]` states of the prediction network.
    """

    beams: kernel.Beams
    cache: caches.Cache
    requests: kernel.Requests
    nodes: np.ndarray
    predicted: np.ndarray
    states: np.ndarray


class TransducerBeamSearch:
    """Transducer beam search, frame by frame, with a limit of symbols in each frame.

    In each frame a hypothesis emits symbols until a blank or the limit. Hypotheses with the same
    tokens are merged: their probabilities are added. After each symbol the best ones are kept.

    Each row has its own frame index. A compiled loop decodes all rows as far as the outputs of the
    networks reach. Then one call of `predict` and one of `join` compute what the rows lack: a
    hypothesis gets the logits of the next frames at once. The prediction network runs once for each
    sequence of tokens.

    Args:
        call: runs the signatures of `tools.decoding.networks.Networks`.
        blank: index of the blank symbol.
        state_shape: shape of the prediction network's states for one row.
        max_symbols_per_frame: number of symbols after which the search moves to the next frame
            without a blank.
        blank_penalty: subtracted from the log probability of the blank in the scores that rank
            hypotheses. A positive value emits more symbols.
        max_window: largest number of frames in one call of `join`.
        projects: see `Networks`.
        threads: number of calls that may run at the same time.
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
        max_window: int = 1,
        projects: bool = False,
        threads: int = 1,
        options: Options,
        texts: "Texts | None" = None,
    ):
        self._networks = Networks(call, projects=projects, max_window=max_window)
        self._state_shape, self._options = tuple(state_shape), options
        self._texts, self._threads = texts, threads
        self._num_frames = min(max_window, _WINDOW)
        self._settings = kernel.Settings(
            width=options.width,
            blank=blank,
            penalty=float(blank_penalty),
            beam_prune=float(options.beam_prune),
            max_symbols=max_symbols_per_frame,
            has_texts=texts is not None,
        )

    def start(self, batch_size: int) -> TransducerBeamState:
        """Runs the prediction network on a blank; see `Search.start`."""
        width = self._options.width
        texts = np.zeros((batch_size, 0), np.int64), np.zeros((batch_size, 0))
        num_extensions = width
        if self._texts is not None:
            texts, num_extensions = self._texts.start(batch_size), width * MORE_CANDIDATES
        num_integers = kernel.NUM_INTEGERS + texts[0].shape[1]
        num_floats = kernel.NUM_FLOATS + texts[1].shape[1]
        beams = kernel.Beams(
            counts=np.zeros((batch_size, kernel.NUM_COUNTS), np.int64),
            integers=np.zeros((batch_size, width, num_integers), np.int64),
            floats=np.zeros((batch_size, width, num_floats)),
            num_ended=np.zeros(batch_size, np.int64),
            ended_integers=np.empty((batch_size, 2 * width, num_integers), np.int64),
            ended_floats=np.empty((batch_size, 2 * width, num_floats)),
            extensions=kernel.Extensions(
                counts=np.zeros(batch_size, np.int64),
                parents=np.empty((batch_size, num_extensions), np.int64),
                symbols=np.empty((batch_size, num_extensions), np.int64),
                totals=np.empty((batch_size, num_extensions)),
                integers=np.zeros((batch_size, num_extensions, texts[0].shape[1]), np.int64),
                floats=np.zeros((batch_size, num_extensions, texts[1].shape[1])),
                shares=np.zeros((batch_size, num_extensions)),
            ),
            tree=np.zeros(1, np.int64),
        )
        beams.counts[:, kernel.NUM_CURRENT] = 1
        beams.integers[:, 0, [kernel.NODE, kernel.TOKEN]] = -1
        beams.integers[:, 0, kernel.NUM_INTEGERS :] = texts[0]
        beams.floats[:, 0, kernel.NUM_FLOATS :] = texts[1]
        cache = caches.empty_cache(batch_size, width, self._num_frames, 0)
        cache.outputs[:, 0, caches.KEY] = cache.outputs[:, 0, caches.USED] = 0  # no tokens
        num_requests = batch_size * width
        requests = kernel.Requests(
            np.zeros(kernel.NUM_REQUESTS, np.int64),
            np.empty((num_requests, kernel.PREDICTION_COLUMNS), np.int64),
            np.empty((num_requests, kernel.WINDOW_COLUMNS), np.int64),
        )
        states = np.zeros((1, *self._state_shape), np.float32)
        predicted, states = self._networks.predict(np.array([self._settings.blank]), states)
        size = cache.outputs.shape[:2]
        state = TransducerBeamState(
            beams=beams,
            cache=cache,
            requests=requests,
            nodes=np.empty((max(_NUM_NODES, 4 * num_requests), kernel.NODE_COLUMNS), np.int32),
            predicted=np.empty((*size, *predicted.shape[1:]), np.float32),
            states=np.empty((*size, *self._state_shape), np.float32),
        )
        state.predicted[:, 0], state.states[:, 0] = predicted, states
        return state

    def advance(
        self, state: TransducerBeamState, encoded: np.ndarray, lengths: np.ndarray
    ) -> TransducerBeamState:
        """Decodes encoded frames `[B, T, D]`; see `Search.advance`."""
        beams, requests = state.beams, state.requests
        beams.counts[:, kernel.FRAME], beams.counts[:, kernel.NUM_FRAMES] = 0, lengths
        caches.forget_windows(state.cache)
        projected = self._networks.project(encoded)
        while True:
            work = state.cache, state.nodes, requests
            kernel.advance(beams, work, self._settings)
            waiting = beams.counts[:, kernel.PHASE] == kernel.TEXTS
            if waiting.any():
                self._score_texts(beams, waiting)
            num_predictions, num_windows, needs_nodes = requests.counts.tolist()
            if needs_nodes:
                self._make_room(state)
            if num_predictions:
                self._read(state, requests.predictions[:num_predictions])
            if num_windows:
                self._join(state, projected, requests.windows[:num_windows])
            elif not needs_nodes and not waiting.any():
                break
        beams.counts[:, kernel.BEFORE] += beams.counts[:, kernel.NUM_FRAMES]
        return state

    def finish(self, state: TransducerBeamState) -> list[Hypothesis]:
        """Returns the best hypothesis of each row; see `Search.finish`."""
        return [ranked[0].hypothesis for ranked in self.n_best(state, 1)]

    def n_best(self, state: TransducerBeamState, size: int) -> list[list[Ranked]]:
        """Returns up to `size` hypotheses of each row with different tokens, best first."""
        rows, places = np.nonzero(_is_below(state.beams.counts[:, kernel.NUM_CURRENT], state))
        integers, floats = state.beams.integers[rows, places], state.beams.floats[rows, places]
        scores = floats[:, kernel.SCORE]
        if self._texts is not None:
            ended = self._texts.ended(*_texts_of(integers, floats))
            scores = scores - floats[:, kernel.SHARE] + ended
        if self._options.norm_score:
            scores = scores / np.maximum(integers[:, kernel.LENGTH], 1)
        found: list[list[Ranked]] = [[] for _ in state.beams.counts]
        for index in np.lexsort((-scores, rows)).tolist():
            ranked = found[rows[index]]
            if len(ranked) < size:
                hypothesis = _hypothesis(state.nodes, integers[index], floats[index])
                ranked.append(Ranked(hypothesis, float(scores[index])))
        return found

    def _score_texts(self, beams: kernel.Beams, waiting: np.ndarray) -> None:
        """Ranks the extensions of rows with the scores of their texts, and keeps the best ones."""
        found, width = beams.extensions, self._options.width
        counts = np.where(waiting, found.counts, 0)
        rows, places = np.nonzero(np.arange(found.totals.shape[1]) < counts[:, None])
        parents = found.parents[rows, places]
        integers, floats = beams.integers[rows, parents], beams.floats[rows, parents]
        symbols, totals = found.symbols[rows, places], found.totals[rows, places]
        *texts, shares = self._texts.extended(*_texts_of(integers, floats), symbols)
        totals += shares - floats[:, kernel.SHARE]
        order = np.lexsort((-totals, rows))
        places = np.arange(len(rows)) - np.searchsorted(rows, rows)  # among the best of its row
        order, rows, places = (x[places < width] for x in (order, rows, places))
        found.parents[rows, places], found.symbols[rows, places] = parents[order], symbols[order]
        found.totals[rows, places], found.shares[rows, places] = totals[order], shares[order]
        found.integers[rows, places], found.floats[rows, places] = (x[order] for x in texts)
        found.counts[waiting] = np.minimum(found.counts[waiting], width)

    def _make_room(self, state: TransducerBeamState) -> None:
        """Forgets tokens that no hypothesis needs; doubles a tree that stays half full."""
        beams = state.beams
        current = _is_below(beams.counts[:, kernel.NUM_CURRENT], state)
        ended = np.arange(beams.ended_integers.shape[1]) < beams.num_ended[:, None]
        leaves = [beams.integers[current], beams.ended_integers[ended]]
        nodes = np.concatenate([one[:, kernel.NODE] for one in leaves])
        beams.tree[0] = compact(state.nodes, beams.tree[0], nodes)
        leaves[0][:, kernel.NODE], leaves[1][:, kernel.NODE] = np.split(nodes, [len(leaves[0])])
        beams.integers[current], beams.ended_integers[ended] = leaves
        if 2 * (beams.tree[0] + self._options.width * len(beams.counts)) > len(state.nodes):
            state.nodes = np.concatenate([state.nodes, np.empty_like(state.nodes)])

    def _read(self, state: TransducerBeamState, requests: np.ndarray) -> None:
        """Runs the prediction network on tokens that it has not read."""
        size = 8 * state.predicted.shape[-1] ** 2  # multiplications of an LSTM

        def read(part: slice) -> None:
            rows, parents, outputs, tokens = requests[part].T
            after = self._networks.predict(tokens, state.states[rows, parents])
            state.predicted[rows, outputs], state.states[rows, outputs] = after

        run_in_parts(read, len(requests), multiplications=size, threads=self._threads)

    def _join(
        self, state: TransducerBeamState, projected: np.ndarray, requests: np.ndarray
    ) -> None:
        """Computes logits for windows of frames."""
        num_symbols, width = state.cache.logits.shape[-1], state.predicted.shape[-1]
        size = self._num_frames * width * num_symbols
        if num_symbols == 0:  # the first call shows their number
            self._join_part(state, projected, requests[:1])
            requests = requests[1:]

        def join(part: slice) -> None:
            self._join_part(state, projected, requests[part])

        if len(requests):
            run_in_parts(join, len(requests), multiplications=size, threads=self._threads)

    def _join_part(
        self, state: TransducerBeamState, projected: np.ndarray, requests: np.ndarray
    ) -> None:
        rows, outputs, windows, firsts = requests.T
        frames = firsts[:, None] + np.arange(self._num_frames)
        current = projected[rows[:, None], np.minimum(frames, projected.shape[1] - 1)]
        logits = self._networks.join(current, state.predicted[rows, outputs])
        cache, blank = state.cache, self._settings.blank
        if cache.logits.shape[-1] == 0:
            size = (*cache.sums.shape, logits.shape[-1])
            cache = state.cache = cache._replace(logits=np.empty(size, np.float32))
        symbols = (logits[..., :blank], logits[..., blank + 1 :])
        tops = np.max([x.max(axis=-1, initial=-np.inf) for x in symbols], axis=0)
        most = np.maximum(tops, logits[..., blank])
        sums, certain = log_sums_and_confidences(logits, most)
        cache.logits[rows, windows], cache.tops[rows, windows] = logits, tops
        cache.sums[rows, windows], cache.confidences[rows, windows] = sums, certain


def _is_below(counts: np.ndarray, state: TransducerBeamState) -> np.ndarray:
    """Returns `[B, W]`, which of the places of current hypotheses are in use."""
    return np.arange(state.beams.integers.shape[1]) < counts[:, None]


def _texts_of(integers: np.ndarray, floats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the columns of `tools.decoding.texts.Texts`."""
    return (
        np.ascontiguousarray(integers[:, kernel.NUM_INTEGERS :]),
        np.ascontiguousarray(floats[:, kernel.NUM_FLOATS :]),
    )


def _hypothesis(nodes: np.ndarray, integers: np.ndarray, floats: np.ndarray) -> Hypothesis:
    """Returns a hypothesis. A token lasts for the one frame in which it was emitted."""
    path, node = [], int(integers[kernel.NODE])
    while node >= 0:
        path.append(node)
        node = int(nodes[node, kernel.PARENT])
    nodes = nodes[path[::-1]]
    return Hypothesis(
        nodes[:, kernel.SYMBOL],
        nodes[:, kernel.START],
        nodes[:, kernel.START] + 1,
        nodes.view(np.float32)[:, kernel.CONFIDENCE],
        float(floats[kernel.LOG_PROBABILITY]),
    )
