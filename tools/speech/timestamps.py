"""When words were said, from the labels of any recognizer and their times."""

from collections.abc import Iterable
from typing import NamedTuple


class Piece(NamedTuple):
    """What one label of a recognizer writes, and when; spaces separate words."""

    text: str
    start_seconds: float
    end_seconds: float


class Word(NamedTuple):
    """A word without spaces."""

    text: str
    start_seconds: float
    end_seconds: float


def words_of(pieces: Iterable[Piece]) -> list[Word]:
    """Joins pieces to words.

    A piece may write a character, a space alone, or several characters with spaces anywhere among
    them, such as the units of SentencePiece. A word lasts from the start of its first piece to the
    end of its last one.

    Args:
        pieces: in the order in which they were said.
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
    return words
