"""The range of a config's number, beside its default in the dataclass."""

import dataclasses
import math
from typing import Any

from tools.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Numbers from one bound to the other; infinities are outside of every range.

    Attributes:
        at_least: lower bound, inside; None: none, or `above`.
        above: lower bound, outside.
        at_most: upper bound, inside; None: none, or `below`.
        below: upper bound, outside.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        """Tells whether a number is inside."""
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """Says it in words, such as `at least 0 and below 1`."""
        bounds = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(f"{word} {x:.15g}" for word, x in bounds.items() if x is not None)


def number(default: Any = dataclasses.MISSING, **bounds: float) -> Any:
    """Gives a field of a config its default and its range.

    Args:
        default: a number, None, or a tuple of numbers, each of them in the range.
        **bounds: of `Range`.
    """
    return dataclasses.field(default=default, metadata={"range": Range(**bounds)})


def check_range(field: dataclasses.Field, key: str, value: object) -> None:
    """Compares a value of a config with the range of its field; null is in every range.

    Raises:
        UserError: it is outside.
    """
    allowed = field.metadata.get("range")
    if allowed is None or value is None:
        return
    for one in value if isinstance(value, tuple) else (value,):
        if one not in allowed:
            raise UserError.expected(f"{key} {allowed}", one, f"Correct {key}")


def check_ranges(config: object) -> None:
    """Compares all values of a section with the ranges of its fields.

    Raises:
        UserError: one of them is outside.
    """
    for field in dataclasses.fields(config):
        check_range(field, field.name, getattr(config, field.name))
