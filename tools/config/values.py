"""Conversion of a config value to the type of its field."""

import contextlib
import math
import os
import reprlib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, Union

from tools.errors import UserError
from tools.files import expand_home

BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
NULLS = ("null", "none")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


class Mismatch(Exception):
    """A value of the wrong type. The message says what was expected, such as "an integer"."""


def optional(field_type: Any) -> Any:
    """Returns T for `T | None`, else None."""
    if typing.get_origin(field_type) in (Union, types.UnionType):
        inner = [option for option in typing.get_args(field_type) if option is not type(None)]
        if len(inner) == 1 and len(typing.get_args(field_type)) == 2:
            return inner[0]
    return None


def _describe(field_type: Any) -> str:
    """Returns a field type in words, for messages."""
    inner = optional(field_type)
    if inner is not None:
        return f"{_describe(inner)} or null"
    if typing.get_origin(field_type) is Literal:
        return "one of " + ", ".join(str(option) for option in typing.get_args(field_type))
    if typing.get_origin(field_type) in (tuple, Sequence):
        items = typing.get_args(field_type)
        if items[-1] is Ellipsis or typing.get_origin(field_type) is Sequence:
            return f"a list with each item {_describe(items[0])}"
        return f"a list of {len(items)}: " + ", ".join(_describe(item) for item in items)
    if typing.get_origin(field_type) in (Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(field_type) if kind is not type(None)]
        return " or ".join(map(_describe, kinds))
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return names.get(field_type) or str(field_type)


def show(value: object) -> str:
    """Returns a value in short form on one line, for messages; None as "null", as in YAML."""
    return "null" if value is None else _short.repr(value)


def argument(name: str, value: object, field_type: Any) -> Any:
    """Converts a keyword argument of a Python call to the type of its field.

    Accepts NumPy scalars for numbers and booleans, integers for floats, and path objects for
    strings.

    Args:
        name: name of the argument, for the message.
        value: value of the argument.
        field_type: type of the field, as in `convert`.

    Raises:
        UserError: the value has the wrong type.
    """
    kind, plain = optional(field_type) or field_type, value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        plain = value.item()
    elif isinstance(value, os.PathLike):
        plain = os.fspath(value)
    try:
        if kind is float and isinstance(plain, str):  # `convert` accepts strings only for YAML
            raise Mismatch(_describe(kind))
        return convert(plain, field_type, textual=False)
    except Mismatch as mismatch:
        shown = "None" if value is None else show(value)
        raise UserError.expected(f"{mismatch} for {name}", shown, f"Correct {name}") from None


def convert(value: object, field_type: Any, textual: bool) -> object:
    """Converts a value to the type of its field; expands `~/` at the start of strings.

    Args:
        value: value from YAML or from the caller.
        field_type: resolved annotation of the field.
        textual: whether the value is text from the command line, from which numbers and lists are
            parsed.

    Raises:
        Mismatch: the value has the wrong type; the message says what was expected.
        TypeError: the config class uses an unsupported type.
    """
    text = value if textual and isinstance(value, str) else None
    inner = optional(field_type)
    if inner is not None:
        if value is None or (text is not None and text.lower() in NULLS):
            return None
        return convert(value, inner, textual)
    origin = typing.get_origin(field_type)
    if origin in (Union, types.UnionType):
        kinds = typing.get_args(field_type)
        if value is None and type(None) in kinds:
            return None
        for kind in kinds:
            with contextlib.suppress(Mismatch):
                return convert(value, kind, textual)
    elif origin is Literal:
        for option in typing.get_args(field_type):
            if (type(value) is type(option) and value == option) or text == str(option):
                return option
    elif origin in (tuple, Sequence):
        if text is not None:
            inside = text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text
            value = [item.strip() for item in inside.split(",")] if inside.strip() else []
        items = typing.get_args(field_type)
        if isinstance(value, (list, tuple)):
            of_any_length = items[-1] is Ellipsis or origin is Sequence
            kinds = items[:1] * len(value) if of_any_length else items
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
        # PyYAML reads a number such as 1e-3, without a decimal point, as a string.
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return _number(value, float)
    elif field_type is str:
        if isinstance(value, str):
            return expand_home(value)
    else:
        raise TypeError(f"Config fields of type {field_type} are not supported.")
    raise Mismatch(_describe(field_type))


def _number(value: object, kind: type) -> object:
    """Returns `kind(value)`; raises Mismatch if that fails or the number is NaN."""
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        raise Mismatch(_describe(kind)) from None
    if kind is float and math.isnan(number):
        raise Mismatch(_describe(kind))
    return number
