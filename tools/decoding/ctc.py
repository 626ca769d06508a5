"""Greedy CTC decoding: takes the most probable symbol of every frame."""

from dataclasses import dataclass

import numpy as np

from tools.decoding.confidence import confidences
from tools.decoding.protocol import Hypothesis

_LISTS = ("tokens", "starts", "ends", "confidences")


@dataclass(slots=True)
class CtcState:
    """State of `CtcGreedySearch` for B rows."""

    last: np.ndarray  # [B], symbol of the last frame; -1 before the first one
    frames: np.ndarray  # [B], frames decoded so far
    log_probability: np.ndarray  # [B]
    tokens: list[list[int]]
    starts: list[list[int]]
    ends: list[list[int]]
    confidences: list[list[float]]


class CtcGreedySearch:
    """Greedy CTC search: takes the most probable symbol of every frame.

    Consecutive frames with the same symbol give one token; blanks give none.

    Args:
        blank: index of the blank symbol.

    Source: Graves et al., Connectionist temporal classification (2006), section 3.1.
    """

    def __init__(self, blank: int):
        self._blank = blank

    def start(self, batch_size: int) -> CtcState:
        """See `Search.start`."""
        return CtcState(
            last=np.full(batch_size, -1),
            frames=np.zeros(batch_size, np.int64),
            log_probability=np.zeros(batch_size),
            **{name: [[] for _ in range(batch_size)] for name in _LISTS},
        )

    def advance(self, state: CtcState, encoded: np.ndarray, lengths: np.ndarray) -> CtcState:
        """Decodes logits `[B, T, V]`; see `Search.advance`."""
        for row, (logits, length) in enumerate(zip(encoded, lengths, strict=True)):
            if length > 0:
                self._advance_row(state, row, logits[:length])
        return state

    def _advance_row(self, state: CtcState, row: int, logits: np.ndarray) -> None:
        path = logits.argmax(axis=1)
        best = logits.max(axis=1)
        state.log_probability[row] -= np.log(np.exp(logits - best[:, None]).sum(axis=1)).sum()
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
