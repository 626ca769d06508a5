"""Which items of a data set are used: a share, or a number of them, spread over the whole."""

from collections.abc import Sequence

from tools.errors import UserError


def share(items: Sequence, ratio: float) -> list:
    """The share of a data set that `--data_ratio` asks for, spread over the whole."""
    if not 0 < ratio <= 1:
        raise UserError.expected("--data_ratio above 0 and up to 1", ratio, "Correct the flag")
    return spread(items, max(1, round(ratio * len(items))))


def spread(items: Sequence, count: int) -> list:
    """At most `count` items at equal distances."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
