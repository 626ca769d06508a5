"""Hot words: phrases that a search prefers, read from a file or given as a list."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.decoding.text import byte_surface, has_bytes
from tools.errors import UserError

DEFAULT_WEIGHT, MAX_WEIGHT = 1.5, 100.0


class HotWord(NamedTuple):
    """A phrase of one or more words.

    Attributes:
        text: words with single spaces between them.
        weight: score of the whole phrase for each symbol that it takes, in nats.
    """

    text: str
    weight: float = DEFAULT_WEIGHT


def read_hot_words(source: str | Iterable[str]) -> list[HotWord]:
    """Returns hot words from a file with one phrase a line, or from a list of such lines.

    A tab and a number behind a phrase set its weight. Empty lines count for nothing.

    Args:
        source: path of a UTF-8 file, or lines.

    Raises:
        UserError: the file cannot be read, a weight is not a number from 0 to 100, or there is no
            phrase.
    """
    name = "hotwords"
    if isinstance(source, str):
        name = source
        try:
            source = Path(source).read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            reason = f"{name}: {error.strerror or error}"
            raise UserError.expected("a file of hot words", reason, "Correct the path") from error
        except UnicodeDecodeError as error:
            raise UserError.expected(
                "a file of hot words in UTF-8", f"{name}: {error.reason}", "Convert the file"
            ) from error
    found = []
    for number, line in enumerate(source, start=1):
        text, _, weight = line.partition("\t")
        text = " ".join(text.split())
        if not text:
            continue
        try:
            value = float(weight) if weight.strip() else DEFAULT_WEIGHT
        except ValueError:
            value = math.nan
        if not 0 <= value <= MAX_WEIGHT:
            raise UserError.expected(
                f"a phrase, or a phrase, a tab and a weight of 0 to {MAX_WEIGHT:g}",
                f"{weight.strip()!r} in line {number} of {name}",
                "Correct the line",
            )
        found.append(HotWord(text, value))
    if not found:
        raise UserError.expected(f"hot words in {name}", "no phrase", "Give one phrase a line")
    return found


class Spellings:
    """Finds out how many symbols of a vocabulary a phrase takes.

    Args:
        surfaces: text of each symbol.
    """

    def __init__(self, surfaces: Sequence[str]):
        self._texts = frozenset(surfaces) - {""}
        self._longest = max(map(len, self._texts), default=0)
        self.has_spaces = any(" " in text for text in self._texts)
        self._letters = frozenset("".join(self._texts)) if has_bytes(self._texts) else None

    def written(self, text: str) -> str:
        """Returns a text with bytes, as surfaces, for the characters that only bytes write."""
        if self._letters is None:
            return text
        return "".join(x if x in self._letters else _as_bytes(x) for x in text)

    def num_symbols(self, text: str) -> int | None:
        """Returns the fewest symbols that write a phrase, or None if no symbols write it.

        The first symbol may begin with a space, and the last one may end with one.
        """
        text = self.written(text)
        padded = f" {text} "
        fewest: list[float] = [0, 0, *[math.inf] * (len(padded) - 1)]
        for end in range(2, len(padded) + 1):
            for start in range(max(0, end - self._longest), end):
                if padded[start:end] in self._texts:
                    fewest[end] = min(fewest[end], fewest[start] + 1)
        least = min(fewest[-2:])
        return None if least == math.inf else int(least)


def _as_bytes(character: str) -> str:
    return "".join(map(byte_surface, character.encode("utf-8", "surrogateescape")))


def spelled_hot_words(
    words: Sequence[HotWord], surfaces: Sequence[str], normalize: Callable[[str], str]
) -> tuple[list[HotWord], list[str]]:
    """Divides hot words into those that a vocabulary can write and the others.

    Args:
        words: hot words.
        surfaces: text of each symbol.
        normalize: function that normalizes transcripts for the vocabulary, such as upper case.

    Returns:
        The normalized hot words that the vocabulary can write, and the texts of the other ones.
    """
    spellings = Spellings(surfaces)
    written: list[HotWord] = []
    left_out: list[str] = []
    for word in words:
        text = normalize(word.text)
        if text and spellings.num_symbols(text) is not None:
            written.append(HotWord(text, word.weight))
        else:
            left_out.append(word.text)
    return written, left_out
