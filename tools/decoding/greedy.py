"""Greedy transducer decoding in Python, with the signatures `predict` and `join` of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tools.decoding.confidence import confidences
from tools.decoding.networks import Networks
from tools.decoding.protocol import Call, Hypothesis

if TYPE_CHECKING:
    from tools.decoding.hot_graph import HotScores  # imports numba

_LOGITS_AT_ONCE = 1 << 16  # logits of all rows in one call of `join`: larger calls take longer


@dataclass(slots=True)
class GreedyState:
    """State of `GreedySearch` for B rows."""

    predicted: np.ndarray  # [B, 1, P or J], output of the prediction network, last token read
    states: np.ndarray  # [B, ...], states of the prediction network
    log_probability: np.ndarray  # [B]
    frames: np.ndarray  # [B], frames decoded so far
    nodes: np.ndarray  # [B], nodes of the hot words; 0 without hot words
    tokens: list[list[int]]
    starts: list[list[int]]
    confidences: list[list[float]]


class GreedySearch:
    """Greedy transducer search: takes the most probable symbol at every step.

    Each row has its own frame index, and the result of a row does not depend on the rest of the
    batch. A step computes the logits of the next frames of each row that has not ended, with the
    output of the prediction network after the row's last token. These are the right logits up to
    the first frame whose most probable symbol is a token. The row takes that token, and the next
    step starts at that frame. The prediction network therefore runs once for each token. The loop
    runs in Python because tf2onnx 1.17 cannot convert a loop that writes into a TensorArray.

    Args:
        call: runs the signatures of `tools.decoding.networks.Networks`.
        blank: index of the blank symbol.
        state_shape: shape of the prediction network's states for one row.
        max_symbols_per_frame: number of symbols after which the search moves to the next frame
            without a blank.
        blank_penalty: subtracted from the log probability of the blank when a symbol is chosen.
            A positive value emits more symbols.
        max_window: largest number of frames W in one call of `join`.
        vocabulary_size: number of symbols V, which also limits the frames of a call.
        projects: see `Networks`.
        threads: number of calls that may run at the same time.
        hot_scores: scores of hot words, added to the log-probabilities when a symbol is chosen;
            None for none.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), section 2.6, with a
    beam of 1.
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
        vocabulary_size: int = 1000,
        projects: bool = False,
        threads: int = 1,
        hot_scores: "HotScores | None" = None,
    ):
        self._networks = Networks(
            call,
            projects=projects,
            max_window=max_window,
            vocabulary_size=vocabulary_size,
            threads=threads,
        )
        self._blank, self._blank_penalty = blank, np.float32(blank_penalty)
        self._state_shape, self._max_symbols = tuple(state_shape), max_symbols_per_frame
        self._max_window, self._hot = max_window, hot_scores
        self._frames_at_once = max(1, _LOGITS_AT_ONCE // vocabulary_size)

    def start(self, batch_size: int) -> GreedyState:
        """Runs the prediction network on a blank for each row; see `Search.start`."""
        blanks = np.full(batch_size, self._blank)
        states = np.zeros((batch_size, *self._state_shape), np.float32)
        predicted, states = self._networks.predict(blanks, states)
        return GreedyState(
            predicted=np.array(predicted),
            states=np.array(states),
            log_probability=np.zeros(batch_size, np.float32),
            frames=np.zeros(batch_size, np.int64),
            nodes=np.full(batch_size, 0 if self._hot is None else self._hot.start),
            tokens=[[] for _ in range(batch_size)],
            starts=[[] for _ in range(batch_size)],
            confidences=[[] for _ in range(batch_size)],
        )

    def advance(self, state: GreedyState, encoded: np.ndarray, lengths: np.ndarray) -> GreedyState:
        """Decodes encoded frames `[B, T, D]`; see `Search.advance`."""
        # The symbols of a frame are always decoded within one call, so no count is kept in the
        # state.
        frame, symbols = np.zeros(len(encoded), np.int64), np.zeros(len(encoded), np.int64)
        lengths = np.asarray(lengths, np.int64)
        rows = np.flatnonzero(lengths > 0)
        projected = self._networks.project(encoded)
        while len(rows):
            window = min(self._max_window, max(1, self._frames_at_once // len(rows)))
            frames = frame[rows][:, None] + np.arange(window)
            current = projected[rows[:, None], np.minimum(frames, encoded.shape[1] - 1)]
            logits = self._networks.join(current, state.predicted[rows])
            tokens = self._chosen(logits, state.nodes[rows])
            is_token = (tokens != self._blank) & (frames < lengths[rows][:, None])
            emits = is_token.any(axis=1)
            blanks = np.where(emits, is_token.argmax(axis=1), window)  # before the first token
            blanks = np.minimum(blanks, lengths[rows] - frame[rows])
            state.log_probability[rows] += _sums(logits, tokens, blanks + emits)
            symbols[rows] = np.where(blanks > 0, 0, symbols[rows]) + emits
            frame[rows] += blanks
            emitting = rows[emits]
            if len(emitting):
                found = tokens[emits, blanks[emits]]
                after = self._networks.predict(found, state.states[emitting])
                state.predicted[emitting], state.states[emitting] = after
                starts = state.frames[emitting] + frame[emitting]
                certain = confidences(logits[emits, blanks[emits]])
                columns = (x.tolist() for x in (emitting, found, starts, certain))
                for row, token, start, confidence in zip(*columns, strict=True):
                    state.tokens[row].append(token)
                    state.starts[row].append(start)
                    state.confidences[row].append(confidence)
                    if self._hot is not None:
                        state.nodes[row] = self._hot.after(int(state.nodes[row]), token)
                full = emitting[symbols[emitting] >= self._max_symbols]
                frame[full] += 1
                symbols[full] = 0
            rows = rows[frame[rows] < lengths[rows]]
        state.frames += lengths
        return state

    def finish(self, state: GreedyState) -> list[Hypothesis]:
        """Returns the hypotheses. A token lasts for the one frame in which it was emitted."""
        found = zip(
            state.tokens, state.starts, state.log_probability, state.confidences, strict=True
        )
        return [
            Hypothesis(
                np.array(tokens, np.int32),
                np.array(starts, np.int32),
                np.array(starts, np.int32) + 1,
                np.array(certain, np.float32),
                float(log_probability),
            )
            for tokens, starts, log_probability, certain in found
        ]

    def _chosen(self, logits: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Returns the symbols `[B, W]` that the search takes.

        Args:
            logits: `[B, W, V]`.
            nodes: `[B]` nodes of the hot words.
        """
        if self._hot is not None:
            added = np.stack([self._hot.of(node) for node in nodes.tolist()])
            logits = logits + added[:, None]
        elif self._blank_penalty:
            logits = logits.copy()
        if self._blank_penalty:
            logits[..., self._blank] -= self._blank_penalty
        return logits.argmax(axis=-1)


def _sums(logits: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the sums `[B]` of the log-probabilities of symbols.

    Args:
        logits: `[B, W, V]`.
        tokens: `[B, W]`, the symbol of each frame.
        counts: `[B]`, number of the first frames that count.
    """
    counted = np.arange(logits.shape[1]) < counts[:, None]
    chosen, tokens = logits[counted], tokens[counted]  # [N, V], [N]
    most = chosen.max(axis=1)
    sums = np.log(np.exp(chosen - most[:, None]).sum(axis=1))
    scores = np.zeros(counted.shape, np.float32)
    scores[counted] = chosen[np.arange(len(tokens)), tokens] - most - sums
    return scores.sum(axis=1)
