"""How transcripts are written before they are learnt or compared."""

import functools
import unicodedata
from collections.abc import Callable, Collection, Iterable

# Beside what Unicode calls format and control characters: what chooses between variants of the
# character before it.
_VARIATIONS = ("VARIATION SELECTOR", "MONGOLIAN FREE VARIATION SELECTOR", "COMBINING GRAPHEME JOIN")
_DOTTED_I = "i\u0307"  # Python's lower case of the Turkish dotted capital


def lower(text: str) -> str:
    """Lower case, in which the Turkish dotted capital I is a plain i."""
    return text.lower().replace(_DOTTED_I, "i")


def visible(text: str, keep: Collection[str] = ()) -> str:
    """Unicode NFC, without the characters that leave no mark; whitespace stays.

    Args:
        text: as it is written.
        keep: invisible characters that stay as well.
    """
    if text.isascii() and text.isprintable():
        return text
    # What stood apart only by such a character may compose now.
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
    """Upper case, Unicode NFC, one space between words, nothing invisible.

    Punctuation and digits stay as they are. What is learnt, scored or calibrated with has this
    form, whatever form it is written in.

    Args:
        text: as it is written.
        case: what stands in for upper case: `lower`, or `str`, which leaves it as it is.
        keep: invisible characters that stay, as they are symbols of a vocabulary.
    """
    return " ".join(visible(case(visible(text, keep)), keep).split())


def normalization(surfaces: Iterable[str]) -> Callable[[str], str]:
    """Gives the normalization of transcripts that a recognizer can match.

    Args:
        surfaces: what its symbols write. Its single characters have the say: where all letters
            among them have one case, transcripts take that; else they keep theirs. Invisible
            characters in them stay.
    """
    surfaces = [x.strip(" ") for x in surfaces]
    letters = "".join(x for x in surfaces if len(x) == 1)
    case = str.upper if letters.isupper() else lower if letters.islower() else str
    keep = frozenset(x for text in surfaces for x in text if _is_invisible(x))
    return functools.partial(normalize_transcript, case=case, keep=keep)
