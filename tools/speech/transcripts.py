"""How transcripts are written before they are learnt or compared."""

import functools
import unicodedata
from collections.abc import Callable, Iterable


def normalize_transcript(text: str, case: Callable[[str], str] = str.upper) -> str:
    """Upper case, Unicode NFC, one space between words; punctuation and digits stay as they are.

    Args:
        text: as it is written.
        case: what stands in for upper case: `str.lower`, or `str`, which leaves it as it is.
    """
    return " ".join(unicodedata.normalize("NFC", case(text)).split())


def normalization(surfaces: Iterable[str]) -> Callable[[str], str]:
    """Gives the normalization of transcripts that a recognizer can match.

    Args:
        surfaces: what its symbols write. Its single characters have the say: where all letters
            among them have one case, transcripts take that; else they keep theirs.
    """
    letters = "".join(x for x in surfaces if len(x) == 1)
    case = str.upper if letters.isupper() else str.lower if letters.islower() else str
    return functools.partial(normalize_transcript, case=case)
