"""Characters of transcripts that a recognizer does not know."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

from tools.files import one_line

_MOST_NAMED = 20  # characters in a message

# A normalized transcript to those of its characters that the vocabulary lacks.
Unknown = Callable[[str], str]


def lacking_characters(transcripts: Iterable[str], unknown: Unknown) -> tuple[float, str]:
    """Counts what a vocabulary lacks.

    Returns:
        The share of the transcripts with characters that it lacks, and a line that names these.
    """
    found = [*map(unknown, transcripts)]
    counts, num_with = Counter("".join(found)), sum(map(bool, found))
    share = num_with / max(len(found), 1)
    named = ", ".join(f"{one_line(x)} ({n})" for x, n in counts.most_common(_MOST_NAMED))
    more = f" and {len(counts) - _MOST_NAMED} others" if len(counts) > _MOST_NAMED else ""
    return share, (
        f"{num_with} of {len(found)} transcripts ({share:.1%}) with characters that the "
        f"vocabulary lacks: {named}{more}"
    )


def never_written(surfaces: Iterable[str]) -> Unknown:
    """Gives the function that finds the characters which no symbol of an exported model writes.

    A character may also be written by its parts: a letter and its marks, the jamo of a syllable.

    Args:
        surfaces: what the symbols write.
    """
    text = "".join(surfaces)
    written = {" ", *text, *unicodedata.normalize("NFC", text)}

    def unknown(transcript: str) -> str:
        parts = ((x, unicodedata.normalize("NFD", x)) for x in transcript)
        return "".join(x for x, own in parts if x not in written and not written.issuperset(own))

    return unknown
