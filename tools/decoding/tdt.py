"""Greedy decoding of token-and-duration transducers, with the signatures `predict` and `join`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tools.decoding.confidence import confidences
from tools.decoding.networks import Networks
from tools.decoding.protocol import Call, Hypothesis

if TYPE_CHECKING:
    from tools.decoding.hot_graph import HotScores  # imports numba


@dataclass(slots=True)
class TdtState:
    """State of `TdtSearch` for B rows."""

    predicted: np.ndarray  # [B, 1, P or J], output of the prediction network, last token read
    states: np.ndarray  # [B, ...], states of the prediction network
    log_probability: np.ndarray  # [B]
    frames: np.ndarray  # [B], frames that the pieces so far had
    frame: np.ndarray  # [B], frame to decode next, counted from the start of the row
    nodes: np.ndarray  # [B], nodes of the hot words; 0 without hot words
    tokens: list[list[int]]
    starts: list[list[int]]
    durations: list[list[int]]
    confidences: list[list[float]]
    steps: int = 0  # sequential calls of `join`


class TdtSearch:
    """Greedy search of a token-and-duration transducer.

    Each step takes the most probable symbol and the most probable duration, and moves on by this
    number of frames. A blank with duration 0 moves on by one frame. After `max_symbols_per_frame`
    symbols of duration 0 in one frame, the search also moves on by one frame. Each row has its own
    frame index, so the result of a row does not depend on the rest of the batch.

    Args:
        call: runs the signatures of `tools.decoding.networks.Networks`. Logits are those of the V
            symbols, then those of the N durations.
        blank: index of the blank symbol.
        state_shape: shape of the prediction network's states for one row.
        durations: N numbers of frames.
        max_symbols_per_frame: see above.
        blank_penalty: subtracted from the log probability of the blank when a symbol is chosen.
            A positive value emits more symbols.
        projects: see `Networks`.
        max_window: see `Networks`; a step needs one frame.
        hot_scores: scores of hot words, added to the log-probabilities when a symbol is chosen;
            None for none.

    Source: Xu et al., Token-and-duration transducer (2023), algorithm 2; the limit of symbols as in
    NeMo, `asr/parts/submodules/rnnt_greedy_decoding.py`.
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
        hot_scores: "HotScores | None" = None,
    ):
        self._networks = Networks(call, projects=projects, max_window=max_window)
        self._blank, self._blank_penalty = blank, np.float32(blank_penalty)
        self._state_shape, self._max_symbols = tuple(state_shape), max_symbols_per_frame
        self._durations, self._hot = np.asarray(durations, np.int64), hot_scores

    def start(self, batch_size: int) -> TdtState:
        """Runs the prediction network on a blank for each row; see `Search.start`."""
        blanks = np.full(batch_size, self._blank)
        states = np.zeros((batch_size, *self._state_shape), np.float32)
        predicted, states = self._networks.predict(blanks, states)
        return TdtState(
            predicted=np.array(predicted),
            states=np.array(states),
            log_probability=np.zeros(batch_size, np.float32),
            frames=np.zeros(batch_size, np.int64),
            frame=np.zeros(batch_size, np.int64),
            nodes=np.full(batch_size, 0 if self._hot is None else self._hot.start),
            tokens=[[] for _ in range(batch_size)],
            starts=[[] for _ in range(batch_size)],
            durations=[[] for _ in range(batch_size)],
            confidences=[[] for _ in range(batch_size)],
        )

    def advance(self, state: TdtState, encoded: np.ndarray, lengths: np.ndarray) -> TdtState:
        """Decodes encoded frames `[B, T, D]`; see `Search.advance`.

        A duration that leads beyond these frames skips the first ones of the next piece.
        """
        rows = np.arange(len(encoded))
        # Symbols of duration 0 stay in their frame, so no count is kept between two calls.
        symbols = np.zeros(len(rows), np.int64)
        end = state.frames + lengths
        projected = self._networks.project(encoded)
        while (active := state.frame < end).any():
            place = np.clip(state.frame - state.frames, 0, encoded.shape[1] - 1)
            logits = self._networks.join(projected[rows, place][:, None], state.predicted)[:, 0]
            token, duration, score = self._best(logits, state.nodes)
            state.steps += 1
            state.log_probability += np.where(active, score, 0.0).astype(np.float32)
            is_blank = token == self._blank
            emits = active & ~is_blank
            emitting = np.flatnonzero(emits)
            symbols = np.where(emits, symbols + 1, symbols)
            must_move = is_blank | (symbols >= self._max_symbols)
            step = np.where(must_move, np.maximum(duration, 1), duration)
            if len(emitting):
                after = self._networks.predict(token[emitting], state.states[emitting])
                state.predicted[emitting], state.states[emitting] = after
                certain = confidences(logits[emitting, : -len(self._durations)])
                for row, confidence in zip(emitting, certain.tolist(), strict=True):
                    state.confidences[row].append(confidence)
                    state.tokens[row].append(int(token[row]))
                    state.starts[row].append(int(state.frame[row]))
                    state.durations[row].append(int(duration[row]))
                    if self._hot is not None:
                        state.nodes[row] = self._hot.after(int(state.nodes[row]), int(token[row]))
            state.frame = np.where(active, state.frame + step, state.frame)
            symbols = np.where(step > 0, 0, symbols)
        state.frames = end
        return state

    def finish(self, state: TdtState) -> list[Hypothesis]:
        """Returns the hypotheses. A token lasts for its duration, which can be 0 frames."""
        hypotheses = []
        for row, tokens in enumerate(state.tokens):
            starts = np.array(state.starts[row], np.int32)
            ends = starts + np.array(state.durations[row], np.int32)
            found = Hypothesis(
                tokens=np.array(tokens, np.int32),
                starts=starts,
                ends=ends,
                log_probability=float(state.log_probability[row]),
                confidences=np.array(state.confidences[row], np.float32),
            )
            hypotheses.append(found)
        return hypotheses

    def _best(
        self, logits: np.ndarray, nodes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the best symbols, durations and their log-probabilities, `[B]` each."""
        symbols, durations = np.split(logits, [logits.shape[1] - len(self._durations)], axis=1)
        chosen_from = symbols
        if self._hot is not None:
            chosen_from = symbols + np.stack([self._hot.of(node) for node in nodes.tolist()])
        if self._blank_penalty:
            chosen_from = chosen_from.copy()
            chosen_from[:, self._blank] -= self._blank_penalty
        token, place = chosen_from.argmax(axis=1), durations.argmax(axis=1)
        score = _log_softmax(symbols, token) + _log_softmax(durations, place)
        return token, self._durations[place], score


def _log_softmax(logits: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Returns the log-probability of one entry of each row."""
    most = logits.max(axis=1)
    total = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
    return logits[np.arange(len(logits)), index] - total
