"""Conversion of tokens to text."""

from collections.abc import Iterable, Sequence

import numpy as np


def text_of(tokens: Iterable[int] | np.ndarray, surfaces: Sequence[str]) -> str:
    """Returns the text of tokens, without leading and trailing whitespace.

    Args:
        tokens: `[U]` token ids without blanks.
        surfaces: `[V]` text of each token.
    """
    return "".join(surfaces[token] for token in tokens).strip()
