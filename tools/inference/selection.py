"""Selects a share or a number of items of a data set, at regular intervals."""

from collections.abc import Sequence

from tools.errors import UserError


def share(items: Sequence, ratio: float) -> list:
    """Returns a share of a data set, taken at regular intervals.

    Args:
        items: the data set.
        ratio: share, above 0 and at most 1. At least one item is returned.

    Raises:
        UserError: the ratio is out of range.
    """
    if not 0 < ratio <= 1:
        raise UserError.expected("--data_ratio above 0 and up to 1", ratio, "Correct the flag")
    return spread(items, max(1, round(ratio * len(items))))


def spread(items: Sequence, count: int) -> list:
    """Returns at most `count` items, taken at regular intervals."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
