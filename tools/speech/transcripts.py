"""Normalization of transcripts for training and scoring."""

import functools
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable

# Name prefixes of further invisible characters: they select a variant of the preceding character.
_VARIATIONS = ("VARIATION SELECTOR", "MONGOLIAN FREE VARIATION SELECTOR", "COMBINING GRAPHEME JOIN")
# Characters other than letters, digits and spaces, without apostrophes between two letters.
_WORD_MARKS = re.compile(r"(?!(?<=[^\W\d_])'(?=[^\W\d_]))[^\w\s]|_")
_DOTTED_I = "i\u0307"  # Python's lower case of the Turkish capital I with a dot


def lower(text: str) -> str:
    """Returns a text in lower case; the Turkish capital I with a dot becomes a plain i."""
    return text.lower().replace(_DOTTED_I, "i")


def visible(text: str, keep: Collection[str] = ()) -> str:
    """Returns a text in Unicode NFC without invisible characters; whitespace is kept.

    Args:
        text: any text.
        keep: invisible characters to keep.
    """
    if text.isascii() and text.isprintable():
        return text
    # Normalize again: characters that were separated by an invisible one may now compose.
    left = "".join(x for x in text if x in keep or not _is_invisible(x))
    return unicodedata.normalize("NFC", left)


@functools.lru_cache(maxsize=4096)
def _is_invisible(character: str) -> bool:
    if character.isspace():
        return False
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cf") or unicodedata.name(character, "").startswith(_VARIATIONS)


def normalize_transcript(
    text: str, case: Callable[[str], str] = str.upper, keep: Collection[str] = ()
) -> str:
    """Normalizes a transcript: case, Unicode NFC, single spaces, no invisible characters.

    Punctuation and digits are not changed. Training, scoring and calibration all use transcripts
    in this form.

    Args:
        text: transcript.
        case: function that changes the case: `str.upper`, `lower`, or `str` to keep it.
        keep: invisible characters to keep, as they are symbols of the vocabulary.
    """
    return " ".join(visible(case(visible(text, keep)), keep).split())


def plain_words(text: str) -> str:
    """Returns a text in lower case without punctuation, for scoring.

    Characters that Unicode classifies as punctuation become spaces. Apostrophes between two letters
    stay, as they are part of the word; the typographic one becomes the plain one. Numbers,
    abbreviations and spellings are not changed.

    Args:
        text: any text.

    Returns:
        Words with single spaces between them.
    """
    text = lower(visible(text)).replace("\u2019", "'")
    return " ".join(_WORD_MARKS.sub(_without, text).split())


def _without(found: re.Match) -> str:
    is_punctuation = unicodedata.category(found[0]).startswith("P")
    return " " if is_punctuation else found[0]


def normalization(surfaces: Iterable[str], *, longest: float = 1) -> Callable[[str], str]:
    """Returns the function that normalizes transcripts for a vocabulary.

    Args:
        surfaces: text of each symbol. If all letters are upper case, transcripts become upper case;
            if all are lower case, lower case; otherwise the case is kept. Invisible characters that
            occur in symbols are kept.
        longest: letters of symbols with more characters are ignored, such as those of special
            symbols.
    """
    surfaces = [x.strip(" ") for x in surfaces]
    letters = "".join(x for x in surfaces if len(x) <= longest)
    case = str.upper if letters.isupper() else lower if letters.islower() else str
    keep = frozenset(x for text in surfaces for x in text if _is_invisible(x))
    return functools.partial(normalize_transcript, case=case, keep=keep)
