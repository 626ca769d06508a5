"""Frozen options from the flags of a program, or from keyword arguments."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from tools.errors import UserError

Options = TypeVar("Options")


def from_flags(kind: type[Options], values: object, **others: Any) -> Options:
    """Makes options of the flags that have the names of their fields.

    Args:
        kind: of options.
        values: parsed flags; where it lacks a field, the field's default counts.
        others: fields that have no flag.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    given = {name: getattr(values, name) for name in names if hasattr(values, name)}
    return kind(**given | others)


def from_keywords(kind: type[Options], keywords: Mapping[str, Any]) -> Options:
    """Makes options of keyword arguments.

    Raises:
        UserError: a name that the options do not have; the nearest one is named.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    for name in keywords:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            do = f"Use {near[0]}" if near else f"Use one of {', '.join(names)}"
            raise UserError.expected(f"an option of {kind.__name__}", name, do)
    return kind(**keywords)
