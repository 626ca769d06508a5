"""Conversion of one config value by the type of its field."""

import math
import os
import reprlib
import types
import typing
from typing import Any, Literal, Union

from tools.errors import UserError
from tools.files import expand_home

BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
NULLS = ("null", "none")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


class Mismatch(Exception):
    """A value that does not fit its field; str() says what was expected."""


def optional(field_type: Any) -> Any:
    """Returns T for `T | None`, else None."""
    if typing.get_origin(field_type) in (Union, types.UnionType):
        inner = [option for option in typing.get_args(field_type) if option is not type(None)]
        if len(inner) == 1 and len(typing.get_args(field_type)) == 2:
            return inner[0]
    return None


def _describe(field_type: Any) -> str:
    """Returns a field type in words for messages."""
    inner = optional(field_type)
    if inner is not None:
        return f"{_describe(inner)} or null"
    if typing.get_origin(field_type) is Literal:
        return "one of " + ", ".join(str(option) for option in typing.get_args(field_type))
    if typing.get_origin(field_type) is tuple:
        items = typing.get_args(field_type)
        if items[-1] is Ellipsis:
            return f"a list with each item {_describe(items[0])}"
        return f"a list of {len(items)}: " + ", ".join(_describe(item) for item in items)
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return names.get(field_type) or str(field_type)


def show(value: object) -> str:
    """Returns a value as a message shows it: short, on one line, with the YAML word for None."""
    return "null" if value is None else _short.repr(value)


def argument(name: str, value: object, field_type: Any) -> Any:
    """Checks a keyword argument of a Python caller, and gives it the type of its field.

    Scalars of NumPy count as numbers and switches, an integer as a float, a path object as a str.

    Args:
        name: of the argument.
        value: of it.
        field_type: as of `convert`.

    Raises:
        UserError: the value is of another type.
    """
    kind, plain = optional(field_type) or field_type, value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        plain = value.item()
    elif isinstance(value, os.PathLike):
        plain = os.fspath(value)
    try:
        if kind is float and isinstance(plain, str):  # YAML alone writes numbers so
            raise Mismatch(_describe(kind))
        return convert(plain, field_type, textual=False)
    except Mismatch as mismatch:
        shown = "None" if value is None else show(value)
        raise UserError.expected(f"{mismatch} for {name}", shown, f"Correct {name}") from None


def convert(value: object, field_type: Any, textual: bool) -> object:
    """Converts a value by its field's type; a text that begins with `~/` names the home folder.

    Args:
        value: what YAML or the caller gave.
        field_type: resolved annotation of the field.
        textual: the value is a word of the command line: numbers and lists are read from it.

    Raises:
        Mismatch: the value does not fit; the message says what would.
        TypeError: the config class uses a type that is not supported.
    """
    text = value if textual and isinstance(value, str) else None
    inner = optional(field_type)
    if inner is not None:
        if value is None or (text is not None and text.lower() in NULLS):
            return None
        return convert(value, inner, textual)
    origin = typing.get_origin(field_type)
    if origin is Literal:
        for option in typing.get_args(field_type):
            if (type(value) is type(option) and value == option) or text == str(option):
                return option
    elif origin is tuple:
        if text is not None:
            inside = text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text
            value = [item.strip() for item in inside.split(",")] if inside.strip() else []
        items = typing.get_args(field_type)
        if isinstance(value, (list, tuple)):
            kinds = items[:1] * len(value) if items[-1] is Ellipsis else items
            if len(kinds) == len(value):
                return tuple(
                    convert(item, kind, textual) for item, kind in zip(value, kinds, strict=True)
                )
    elif field_type is bool:
        if isinstance(value, bool):
            return value
        if text is not None and text.lower() in BOOLEANS:
            return BOOLEANS[text.lower()]
    elif field_type is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if text is not None:
            return _number(text, int)
    elif field_type is float:
        # PyYAML reads 1e-3, which has no point, as a string.
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return _number(value, float)
    elif field_type is str:
        if isinstance(value, str):
            return expand_home(value)
    else:
        raise TypeError(f"Config fields of type {field_type} are not supported.")
    raise Mismatch(_describe(field_type))


def _number(value: object, kind: type) -> object:
    """Returns `kind(value)`; anything unreadable, and NaN, is a mismatch."""
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        raise Mismatch(_describe(kind)) from None
    if kind is float and math.isnan(number):
        raise Mismatch(_describe(kind))
    return number
