"""What a search is: it takes encoded frames piece by piece and gives a hypothesis for each row."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

State = TypeVar("State")
# Runs a signature of a model: `(inputs, name of the signature) -> outputs`.
Call = Callable[[Mapping[str, np.ndarray], str], Mapping[str, np.ndarray]]


class Hypothesis(NamedTuple):
    """What a search found in one row.

    Attributes:
        tokens: `[U]` int32.
        starts: `[U]` int32, the first frame of each token, counted from the start of the row.
        ends: `[U]` int32, the frame behind the last one of each token.
        log_probability: of the path through the frames, in nats.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    log_probability: float


class Search(Protocol[State]):
    """A search over batches of encoded frames.

    The frames of a row may come in one piece or in several: the result is the same. A state is used
    once: `advance` may change it and returns the one to go on with.
    """

    def start(self, batch_size: int) -> State:
        """Gives the state before the first frame of `batch_size` rows."""

    def advance(self, state: State, encoded: np.ndarray, lengths: np.ndarray) -> State:
        """Reads the next frames of each row.

        Args:
            state: of `start` or the last `advance`.
            encoded: `[B, T, D]` frames; CTC: `[B, T, V]` logits.
            lengths: `[B]` valid frames of this piece, 0 for a row that has ended.

        Returns:
            The state after these frames.
        """

    def finish(self, state: State) -> Sequence[Hypothesis]:
        """Gives the hypotheses of the rows; the state may still be advanced afterwards."""
