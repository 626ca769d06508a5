"""Greedy CTC decoding: takes the most probable symbol of every frame."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tools.decoding.confidence import confidences
from tools.decoding.protocol import Hypothesis

if TYPE_CHECKING:
    from tools.decoding.hot_graph import HotScores  # imports numba

_LISTS = ("tokens", "starts", "ends", "confidences")


@dataclass(slots=True)
class CtcState:
    """State of `CtcGreedySearch` for B rows."""

    last: np.ndarray  # [B], symbol of the last frame; -1 before the first one
    frames: np.ndarray  # [B], frames decoded so far
    log_probability: np.ndarray  # [B]
    nodes: list[int]  # [B], nodes of the hot words; 0 without hot words
    tokens: list[list[int]]
    starts: list[list[int]]
    ends: list[list[int]]
    confidences: list[list[float]]


class CtcGreedySearch:
    """Greedy CTC search: takes the most probable symbol of every frame.

    Consecutive frames with the same symbol give one token; blanks give none.

    Args:
        blank: index of the blank symbol.
        hot_scores: scores of hot words, added to the log-probability of a symbol that begins a
            token; None for none.

    Source: Graves et al., Connectionist temporal classification (2006), section 3.1.
    """

    def __init__(self, blank: int, hot_scores: "HotScores | None" = None):
        self._blank, self._hot = blank, hot_scores

    def start(self, batch_size: int) -> CtcState:
        """See `Search.start`."""
        return CtcState(
            last=np.full(batch_size, -1),
            frames=np.zeros(batch_size, np.int64),
            log_probability=np.zeros(batch_size),
            nodes=[0 if self._hot is None else self._hot.start] * batch_size,
            **{name: [[] for _ in range(batch_size)] for name in _LISTS},
        )

    def advance(self, state: CtcState, encoded: np.ndarray, lengths: np.ndarray) -> CtcState:
        """Decodes logits `[B, T, V]`; see `Search.advance`."""
        for row, (logits, length) in enumerate(zip(encoded, lengths, strict=True)):
            if length > 0:
                self._advance_row(state, row, logits[:length])
        return state

    def _advance_row(self, state: CtcState, row: int, logits: np.ndarray) -> None:
        path, most = self._path(state, row, logits), logits.max(axis=1)
        sums = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
        state.log_probability[row] += (logits[np.arange(len(path)), path] - sums).sum()
        starts = np.flatnonzero(np.diff(path, prepend=state.last[row]))
        ends = np.append(starts[1:], len(path)) if len(starts) else starts
        offset = int(state.frames[row])
        certain, written = np.zeros(len(path), np.float32), path != self._blank
        certain[written] = confidences(logits[written])
        continued = starts[0] if len(starts) else len(path)
        if continued and state.last[row] not in (-1, self._blank):
            state.ends[row][-1] = offset + int(continued)
            last = state.confidences[row]
            last[-1] = max(last[-1], float(certain[:continued].max()))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if path[start] != self._blank:
                state.tokens[row].append(int(path[start]))
                state.starts[row].append(offset + start)
                state.ends[row].append(offset + end)
                state.confidences[row].append(float(certain[start:end].max()))
        state.last[row] = path[-1]
        state.frames[row] += len(path)

    def _path(self, state: CtcState, row: int, logits: np.ndarray) -> np.ndarray:
        """Returns the symbol `[T]` that the search takes in each frame of a row."""
        path = logits.argmax(axis=1)
        if self._hot is None:
            return path
        last, node = int(state.last[row]), state.nodes[row]
        for frame, scores in enumerate(logits):
            added = self._hot.of(node)
            if last >= 0 and last != self._blank:  # a repeated symbol adds no text
                added = added.copy()
                added[last] = 0.0
            symbol = int((scores + added).argmax())
            if symbol not in (last, self._blank):
                node = self._hot.after(node, symbol)
            last = path[frame] = symbol
        state.nodes[row] = node
        return path

    def finish(self, state: CtcState) -> list[Hypothesis]:
        """Returns the hypotheses. A token lasts for all consecutive frames with its symbol."""
        lists = [getattr(state, name) for name in _LISTS]
        return [
            Hypothesis(
                *(np.array(x, np.int32) for x in found),
                np.array(certain, np.float32),
                float(log_probability),
            )
            for *found, certain, log_probability in zip(*lists, state.log_probability, strict=True)
        ]
