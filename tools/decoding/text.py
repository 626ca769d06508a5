"""Conversion of tokens to text."""

from collections.abc import Iterable, Sequence

import numpy as np

_BYTES = range(0xDC80, 0xDD00)  # characters that stand for the bytes 128 to 255


def byte_surface(byte: int) -> str:
    """Returns the surface of a token that is one byte of UTF-8 text.

    A byte from 128 on becomes a lone surrogate, as with Python's error handler `surrogateescape`.
    `text_of` and `tools.decoding.graph.detokenize` join such bytes to characters.
    """
    return bytes([byte]).decode("utf-8", "surrogateescape")


def has_bytes(surfaces: Iterable[str]) -> bool:
    """Returns whether tokens stand for single bytes, so that they can write every character."""
    return any(len(text) == 1 and ord(text) in _BYTES for text in surfaces)


def joined_bytes(text: str) -> str:
    """Joins the bytes in a text to characters. Bytes that are not UTF-8 become U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def text_of(tokens: Iterable[int] | np.ndarray, surfaces: Sequence[str]) -> str:
    """Returns the text of tokens, without leading and trailing whitespace.

    Args:
        tokens: `[U]` token ids without blanks.
        surfaces: `[V]` text of each token.
    """
    return joined_bytes("".join(surfaces[token] for token in tokens)).strip()
