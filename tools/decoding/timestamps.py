"""When words were said, from the tokens of any search and the times of its frames."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tools.decoding.protocol import Hypothesis


class Piece(NamedTuple):
    """What one token writes, and when; spaces separate words."""

    text: str
    start_seconds: float
    end_seconds: float


class Word(NamedTuple):
    """A word without spaces."""

    text: str
    start_seconds: float
    end_seconds: float


def pieces_of(
    hypothesis: Hypothesis, surfaces: Sequence[str], seconds: Callable[[int], float]
) -> list[Piece]:
    """Lists what the tokens of a hypothesis write, and when.

    Args:
        hypothesis: of a search.
        surfaces: the text that each token adds.
        seconds: the time at which a frame begins.
    """
    rows = zip(hypothesis.tokens, hypothesis.starts, hypothesis.ends, strict=True)
    return [
        Piece(surfaces[token], seconds(int(start)), seconds(int(end))) for token, start, end in rows
    ]


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
