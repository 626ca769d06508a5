"""Suggestions for misspelt names, and other names of keys in messages."""

import difflib
import re
from collections.abc import Mapping, Sequence

_LEAST_SIMILARITY = 0.75  # share of letters; "saved" and "seed" have 0.67


def similar_name(name: str, names: Sequence[str]) -> str | None:
    """Returns the name that a misspelt one stands for, or None.

    Names are similar if few letters differ, or if one has all words of the other, as `output` and
    `output_dir`.

    Args:
        name: unknown name.
        names: valid names.
    """
    words = set(name.split("_"))
    pairs = [(x, set(x.split("_"))) for x in names]
    alike = [x for x, own in pairs if words <= own or own <= words]
    near = difflib.get_close_matches(name, names, n=1, cutoff=_LEAST_SIMILARITY)
    return next(iter(near or difflib.get_close_matches(name, alike, n=1, cutoff=0.0)), None)


def replace_keys(message: str, names: Mapping[str, str]) -> str:
    """Replaces keys in a message by others, unless they are parts of longer keys or paths.

    Args:
        message: message that names keys.
        names: new key by old key.
    """
    if not names:
        return message
    longest_first = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    pattern = rf"(?<![\w./])({longest_first})(?![\w./]*\w)"
    return re.sub(pattern, lambda found: names[found[1]], message)
