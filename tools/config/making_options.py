"""Frozen options from the flags of a program, or from keyword arguments."""

import dataclasses
import difflib
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tools.errors import UserError

Options = TypeVar("Options")
Function = TypeVar("Function", bound=Callable)


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


def takes_options(kind: type) -> Callable[[Function], Function]:
    """Makes `help` of a function with `**options` list the fields of a dataclass.

    The function's signature gets the fields as keywords with their defaults. The line `**options`
    of its docstring gives way to what the docstring of the dataclass says of each.

    Args:
        kind: of options.
    """

    def describe(function: Function) -> Function:
        signature = inspect.signature(function)
        *own, _ = signature.parameters.values()
        keywords = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default,
                annotation=field.type,
            )
            for field in dataclasses.fields(kind)
        ]  # fmt: skip
        function.__signature__ = signature.replace(parameters=[*own, *keywords])
        if function.__doc__:  # there is none under `python -OO`
            function.__doc__ = re.sub(
                r"^( *)\*\*options:.*\n",
                lambda line: textwrap.indent(_descriptions(kind), line[1]),
                function.__doc__,
                flags=re.MULTILINE,
            )
        return function

    return describe


def _descriptions(kind: type) -> str:
    """The sections "Attributes" of a dataclass and of those that it extends, as one."""
    found = []
    for one in reversed(kind.__mro__):
        doc = inspect.cleandoc(vars(one).get("__doc__") or "")
        _, _, section = doc.partition("\nAttributes:\n")
        found.append(textwrap.dedent(section.partition("\n\n")[0]).rstrip())
    return "".join(f"{section}\n" for section in found if section)
