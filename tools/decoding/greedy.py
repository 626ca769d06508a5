"""Greedy transducer decoding in Python, with the signatures `predict` and `join` of a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.decoding.confidence import confidences
from tools.decoding.protocol import Call, Hypothesis


@dataclass(slots=True)
class GreedyState:
    """State of `GreedySearch` for B rows."""

    predicted: np.ndarray  # [B, 1, P], output of the prediction network after the last token
    states: np.ndarray  # [B, ...], states of the prediction network
    log_probability: np.ndarray  # [B]
    frames: np.ndarray  # [B], frames decoded so far
    tokens: list[list[int]]
    starts: list[list[int]]
    confidences: list[list[float]]


class GreedySearch:
    """Greedy transducer search: takes the most probable symbol at every step.

    Each row has its own frame index. A batch therefore takes at most max(T + U) steps, and the
    result of a row does not depend on the rest of the batch. The loop runs in Python because it is
    faster (half the time of TensorFlow's loop on two cores, batches of 16), and because tf2onnx
    1.17 cannot convert a loop that writes into a TensorArray.

    Args:
        call: runs `predict` (`tokens` `[B, 1]`, `states` -> `predicted` `[B, 1, P]`, `next_states`)
            and `join` (`encoded` `[B, 1, D]`, `predicted` -> `logits` `[B, 1, 1, V]`).
        blank: index of the blank symbol.
        state_shape: shape of the prediction network's states for one row.
        max_symbols_per_frame: number of symbols after which the search moves to the next frame
            without a blank.
        blank_penalty: subtracted from the log probability of the blank when a symbol is chosen.
            A positive value emits more symbols.

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
    ):
        self._call, self._blank, self._blank_penalty = call, blank, np.float32(blank_penalty)
        self._state_shape, self._max_symbols = tuple(state_shape), max_symbols_per_frame

    def start(self, batch_size: int) -> GreedyState:
        """Runs the prediction network on a blank for each row; see `Search.start`."""
        inputs = {
            "tokens": np.full((batch_size, 1), self._blank, np.int32),
            "states": np.zeros((batch_size, *self._state_shape), np.float32),
        }
        after = self._call(inputs, "predict")
        return GreedyState(
            predicted=np.array(after["predicted"]),
            states=np.array(after["next_states"]),
            log_probability=np.zeros(batch_size, np.float32),
            frames=np.zeros(batch_size, np.int64),
            tokens=[[] for _ in range(batch_size)],
            starts=[[] for _ in range(batch_size)],
            confidences=[[] for _ in range(batch_size)],
        )

    def advance(self, state: GreedyState, encoded: np.ndarray, lengths: np.ndarray) -> GreedyState:
        """Decodes encoded frames `[B, T, D]`; see `Search.advance`."""
        rows = np.arange(len(encoded))
        # The symbols of a frame are always decoded within one call, so no count is kept in the
        # state.
        frame, symbols = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        while (active := frame < lengths).any():
            current = encoded[rows, np.minimum(frame, encoded.shape[1] - 1)][:, None]
            joined = self._call({"encoded": current, "predicted": state.predicted}, "join")
            logits = joined["logits"][:, 0, 0]
            chosen_from = logits
            if self._blank_penalty:
                chosen_from = logits.copy()
                chosen_from[:, self._blank] -= self._blank_penalty
            token = chosen_from.argmax(axis=1)
            most = logits.max(axis=1)
            total = np.log(np.exp(logits - most[:, None]).sum(axis=1))
            total += most - logits[rows, token]
            state.log_probability -= np.where(active, total, 0.0).astype(np.float32)
            emits = active & (token != self._blank)
            emitting = np.flatnonzero(emits)
            if len(emitting):
                self._read(state, emitting, token[emitting])
                certain = confidences(logits[emitting]).tolist()
                for row, confidence in zip(emitting, certain, strict=True):
                    state.tokens[row].append(int(token[row]))
                    state.starts[row].append(int(state.frames[row] + frame[row]))
                    state.confidences[row].append(confidence)
            symbols = np.where(emits, symbols + 1, 0)
            moves = ~emits | (symbols >= self._max_symbols)
            frame = np.where(moves, frame + 1, frame)
            symbols = np.where(moves, 0, symbols)
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

    def _read(self, state: GreedyState, rows: np.ndarray, tokens: np.ndarray) -> None:
        """Runs the prediction network of some rows on their new tokens."""
        inputs = {"tokens": tokens[:, None].astype(np.int32), "states": state.states[rows]}
        after = self._call(inputs, "predict")
        state.predicted[rows], state.states[rows] = after["predicted"], after["next_states"]
