"""Interface of a search: decodes frames piece by piece and returns a hypothesis for each row."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

State = TypeVar("State")
# Runs a signature of a model: `(inputs, name of the signature) -> outputs`.
Call = Callable[[Mapping[str, np.ndarray], str], Mapping[str, np.ndarray]]


class Hypothesis(NamedTuple):
    """Result of a search for one row.

    Attributes:
        tokens: `[U]` int32.
        starts: `[U]` int32, first frame of each token, counted from the start of the row.
        ends: `[U]` int32, frame after the last frame of each token.
        confidences: `[U]` float32 in [0, 1], how certain the model was of each token; see
            `tools.decoding.confidence`. A token of several frames has the largest of its frames.
        log_probability: log-probability of the path through the frames, in nats.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    confidences: np.ndarray
    log_probability: float


class Ranked(NamedTuple):
    """A hypothesis of a list of several.

    Attributes:
        hypothesis: tokens, frames and log-probability.
        score: what the list is sorted by: the log-probability with the scores of language models
            and hot words, or divided by a length.
    """

    hypothesis: Hypothesis
    score: float


class Search(Protocol[State]):
    """A search over batches of encoded frames.

    The result is the same whether the frames of a row come in one piece or in several. Use each
    state once: `advance` may modify it in place, and returns the state for the next call.
    """

    def start(self, batch_size: int) -> State:
        """Returns the state of `batch_size` rows before their first frame."""

    def advance(self, state: State, encoded: np.ndarray, lengths: np.ndarray) -> State:
        """Decodes the next frames of each row.

        Args:
            state: result of `start` or of the last `advance`.
            encoded: `[B, T, D]` frames; for CTC, `[B, T, V]` logits.
            lengths: `[B]` valid frames of this piece; 0 for a row that has ended.

        Returns:
            The state after these frames.
        """

    def finish(self, state: State) -> Sequence[Hypothesis]:
        """Returns the hypotheses of all rows. Decoding may continue from the state afterwards."""


class BeamSearching(Search[State], Protocol):
    """A search that finds several hypotheses for each row."""

    def n_best(self, state: State, size: int) -> list[list[Ranked]]:
        """Returns up to `size` different hypotheses of each row, best first."""
