"""Tokens to text."""

from collections.abc import Iterable, Sequence

import numpy as np


def text_of(tokens: Iterable[int] | np.ndarray, surfaces: Sequence[str]) -> str:
    """Writes tokens as a text without whitespace at its ends.

    Args:
        tokens: `[U]` integers without blanks.
        surfaces: the text that each token adds.
    """
    return "".join(surfaces[token] for token in tokens).strip()
