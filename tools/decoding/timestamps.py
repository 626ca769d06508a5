"""Word times, computed from the frames of the decoded tokens."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tools.decoding.protocol import Hypothesis
from tools.decoding.text import joined_bytes


class Piece(NamedTuple):
    """Text and time of one token. Spaces in the text separate words."""

    text: str
    start_seconds: float
    end_seconds: float


class Word(NamedTuple):
    """Text and time of one word. The text has no spaces."""

    text: str
    start_seconds: float
    end_seconds: float


def pieces_of(
    hypothesis: Hypothesis, surfaces: Sequence[str], seconds: Callable[[int], float]
) -> list[Piece]:
    """Returns text and time of each token of a hypothesis.

    Args:
        hypothesis: result of a search.
        surfaces: `[V]` text of each token.
        seconds: function of a frame index that returns the start time of the frame in seconds.
    """
    rows = zip(hypothesis.tokens, hypothesis.starts, hypothesis.ends, strict=True)
    return [
        Piece(surfaces[token], seconds(int(start)), seconds(int(end))) for token, start, end in rows
    ]


def words_of(pieces: Iterable[Piece]) -> list[Word]:
    """Joins pieces to words.

    The text of a piece may be a character, a space, or several characters with spaces at any place,
    such as a SentencePiece unit. A word lasts from the start of its first piece to the end of its
    last piece.

    Args:
        pieces: pieces in the order of time.
    """
    words: list[Word] = []
    is_open = False
    for text, start_seconds, end_seconds in pieces:
        for number, part in enumerate(text.split(" ")):
            is_open = is_open and number == 0
            if part:
                before = words.pop() if is_open else Word("", start_seconds, end_seconds)
                words.append(Word(before.text + part, before.start_seconds, end_seconds))
                is_open = True
    return [word._replace(text=joined_bytes(word.text)) for word in words]
