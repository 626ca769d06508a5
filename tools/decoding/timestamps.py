"""Word times and confidences, computed from the decoded tokens."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tools.decoding.protocol import Hypothesis
from tools.decoding.text import joined_bytes


class Piece(NamedTuple):
    """Text, time, confidence and number of one token. Spaces in the text separate words."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float = 1.0
    token: int = -1


class Word(NamedTuple):
    """A word with its time.

    Attributes:
        text: text without spaces.
        start_seconds: start in the sound.
        end_seconds: end in the sound.
        confidence: smallest confidence of its tokens, from 0 to 1; see `tools.decoding.confidence`.
        tokens: numbers of its tokens in the vocabulary.
    """

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float = 1.0
    tokens: tuple[int, ...] = ()


def pieces_of(
    hypothesis: Hypothesis,
    surfaces: Sequence[str],
    start_seconds: Callable[[int], float],
    end_seconds: Callable[[int], float] | None = None,
) -> list[Piece]:
    """Returns the pieces of a hypothesis, one for each token.

    Args:
        hypothesis: result of a search.
        surfaces: `[V]` text of each token.
        start_seconds: function of the first frame of a token that returns its start in seconds.
        end_seconds: function of the frame after the last frame of a token that returns its end in
            seconds; None uses `start_seconds`.
    """
    end_seconds = start_seconds if end_seconds is None else end_seconds
    rows = zip(*hypothesis[:4], strict=True)
    return [
        Piece(
            surfaces[token],
            start_seconds(int(start)),
            end_seconds(int(end)),
            float(confidence),
            int(token),
        )
        for token, start, end, confidence in rows
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
    for text, start_seconds, end_seconds, confidence, token in pieces:
        for number, part in enumerate(text.split(" ")):
            is_open = is_open and number == 0
            if part:
                before = words.pop() if is_open else Word("", start_seconds, end_seconds)
                words.append(
                    Word(
                        before.text + part,
                        before.start_seconds,
                        end_seconds,
                        min(before.confidence, confidence),
                        (*before.tokens, token),
                    )
                )
                is_open = True
    return [word._replace(text=joined_bytes(word.text)) for word in words]
