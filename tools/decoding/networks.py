"""The prediction network and the joint network of a transducer, as signatures of a model."""

from collections.abc import Mapping

import numpy as np

from tools.decoding.parallel import call_in_parts
from tools.decoding.protocol import Call


class Networks:
    """Runs both networks of a transducer, as signatures of a model.

    A runtime with fixed sizes may return more frames than it was given; they are left out.

    Models with `projects` have the two projections of the joint network as signatures of their own.
    Each frame and each output of the prediction network is then projected once, not in each step.

    Args:
        call: runs `predict` (`tokens` `[N, 1]`, `states` -> `predicted` `[N, 1, P]`, `next_states`)
            and `join` (`encoded` `[N, W, D]`, `predicted` -> `logits` `[N, W, 1, V]`). With
            `projects`: `project` (`encoded` -> `encoded_projection` `[N, W, J]`), `predict`, which
            also returns `predicted_projection` `[N, 1, J]`, and `join_projected` (both projections
            -> `logits`).
        projects: whether the model has the signatures `project` and `join_projected`.
        max_window: largest number of frames W in one call.
        vocabulary_size: about the number of symbols V, by which large calls are recognized.
        threads: number of calls that may run at the same time.
    """

    def __init__(
        self,
        call: Call,
        *,
        projects: bool = False,
        max_window: int = 1,
        vocabulary_size: int = 1,
        threads: int = 1,
    ):
        self._call, self._projects, self._max_window = call, projects, max_window
        self._vocabulary_size, self._threads = vocabulary_size, threads

    def project(self, encoded: np.ndarray) -> np.ndarray:
        """Returns what `join` takes for encoded frames `[B, T, D]`: `[B, T, D or J]`."""
        num_frames = encoded.shape[1]
        if not self._projects or num_frames == 0:
            return encoded
        found = []
        for start in range(0, num_frames, self._max_window):
            piece = np.ascontiguousarray(encoded[:, start : start + self._max_window])
            # The width of the projection is about that of the frames, or twice as large.
            outputs = self._run({"encoded": piece}, "project", 2 * piece[0].size * piece.shape[2])
            found.append(outputs["encoded_projection"][:, : piece.shape[1]])
        return np.concatenate(found, axis=1)

    def predict(self, tokens: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Runs the prediction network on one token of each row.

        Args:
            tokens: `[N]`.
            states: `[N, ...]` states before the tokens.

        Returns:
            What `join` takes, `[N, 1, P or J]`, and the states after the tokens.
        """
        inputs = {"tokens": tokens[:, None].astype(np.int32), "states": states}
        after = self._run(inputs, "predict", 8 * states.shape[-1] ** 2)  # as for an LSTM
        name = "predicted_projection" if self._projects else "predicted"
        return after[name], after["next_states"]

    def join(self, frames: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Computes logits `[N, W, V]`.

        Args:
            frames: `[N, W, D or J]` frames of the result of `project`.
            predicted: `[N, 1, P or J]` results of `predict`.
        """
        names, signature = ("encoded", "predicted"), "join"
        if self._projects:
            names, signature = ("encoded_projection", "predicted_projection"), "join_projected"
        size = frames.shape[1] * predicted.shape[-1] * self._vocabulary_size
        inputs = dict(zip(names, (frames, predicted), strict=True))
        return self._run(inputs, signature, size)["logits"][:, : frames.shape[1], 0]

    def _run(
        self, inputs: Mapping[str, np.ndarray], signature: str, size: int
    ) -> Mapping[str, np.ndarray]:
        """Runs a signature; `size` is about the number of multiplications for a row."""
        return call_in_parts(
            self._call, inputs, signature, multiplications=size, threads=self._threads
        )
