"""Finds characters of transcripts that are not in the vocabulary of a recognizer."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

from tools.amounts import counted
from tools.decoding.text import has_bytes
from tools.files import one_line

_MOST_NAMED = 20  # characters in a message

# Function of a normalized transcript that returns its characters outside the vocabulary.
Unknown = Callable[[str], str]


def lacking_characters(transcripts: Iterable[str], unknown: Unknown) -> tuple[float, str]:
    """Counts the characters of transcripts that are not in a vocabulary.

    Args:
        transcripts: normalized transcripts.
        unknown: function that returns the characters of a transcript outside the vocabulary.

    Returns:
        The share of transcripts with such characters, and a line that lists the characters.
    """
    found = [*map(unknown, transcripts)]
    counts, num_with = Counter("".join(found)), sum(map(bool, found))
    share = num_with / max(len(found), 1)
    named = ", ".join(f"{one_line(x)} ({n})" for x, n in counts.most_common(_MOST_NAMED))
    more = (
        f" and {counted(len(counts) - _MOST_NAMED, 'other')}" if len(counts) > _MOST_NAMED else ""
    )
    return share, (
        f"{num_with} of {counted(len(found), 'transcript')} ({share:.1%}) with characters that the "
        f"vocabulary lacks: {named}{more}"
    )


def never_written(surfaces: Iterable[str]) -> Unknown:
    """Returns a function that finds the characters which an exported model cannot write.

    The model can also write a character by its parts, such as a letter and its accents, or the
    jamo of a Korean syllable.

    Args:
        surfaces: text of each symbol.
    """
    surfaces = [*surfaces]
    if has_bytes(surfaces):
        return lambda transcript: ""
    text = "".join(surfaces)
    written = {" ", *text, *unicodedata.normalize("NFC", text)}

    def unknown(transcript: str) -> str:
        parts = ((x, unicodedata.normalize("NFD", x)) for x in transcript)
        return "".join(x for x, own in parts if x not in written and not written.issuperset(own))

    return unknown
