"""Ranges of the numbers in a config, declared beside their defaults in the dataclass."""

import dataclasses
import math
from typing import Any

from tools.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """A range of finite numbers. A bound of None does not limit the range.

    Attributes:
        at_least: inclusive lower bound.
        above: exclusive lower bound.
        at_most: inclusive upper bound.
        below: exclusive upper bound.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        """Returns whether a number is finite and inside the range."""
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """Returns the range in words, such as `at least 0 and below 1`."""
        bounds = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(f"{word} {x:.15g}" for word, x in bounds.items() if x is not None)


def number(default: Any = dataclasses.MISSING, **bounds: float) -> Any:
    """Returns a dataclass field with a default and a range.

    Args:
        default: a number, None, or a tuple of numbers that are each in the range; without it, the
            field is required.
        **bounds: attributes of `Range`.
    """
    return dataclasses.field(default=default, metadata={"range": Range(**bounds)})


def check_range(field: dataclasses.Field, key: str, value: object) -> None:
    """Checks that a value of a config is in the range of its field; None always passes.

    Args:
        field: field of a config's dataclass.
        key: dotted key of the value, for the message.
        value: a number, a tuple of numbers, or None.

    Raises:
        UserError: the value is outside the range.
    """
    allowed = field.metadata.get("range")
    if allowed is None or value is None:
        return
    for one in value if isinstance(value, tuple) else (value,):
        if one not in allowed:
            raise UserError.expected(f"{key} {allowed}", one, f"Correct {key}")


def check_ranges(config: object) -> None:
    """Checks that every value of a config section is in the range of its field.

    Raises:
        UserError: a value is outside its range.
    """
    for field in dataclasses.fields(config):
        check_range(field, field.name, getattr(config, field.name))
