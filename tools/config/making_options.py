"""Builds frozen options dataclasses from the flags of a program or from keyword arguments."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Container, Mapping
from typing import Any, TypeVar, get_type_hints

from tools.config.similar import similar_name
from tools.config.values import argument
from tools.errors import UserError

Options = TypeVar("Options")
Function = TypeVar("Function", bound=Callable)


def from_flags(kind: type[Options], values: object, **others: Any) -> Options:
    """Builds options from the flags that have the names of the fields.

    Args:
        kind: dataclass of the options.
        values: parsed flags. A field without a flag gets its default.
        others: values of fields that have no flag.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    given = {name: getattr(values, name) for name in names if hasattr(values, name)}
    return kind(**given | others)


def from_keywords(
    kind: type[Options], keywords: Mapping[str, Any], without: Container[str] = ()
) -> Options:
    """Builds options from the keyword arguments of a family's `load` function.

    Args:
        kind: dataclass of the options.
        keywords: values by field name.
        without: fields that this `load` does not accept.

    Raises:
        UserError: a name is unknown (the message suggests the most similar one), or a value has
            the wrong type.
    """
    names = [field.name for field in dataclasses.fields(kind) if field.name not in without]
    for name in keywords:
        if name not in names:
            near = similar_name(name, names)
            do = f"Use {near}" if near else f"Use one of {', '.join(names)}"
            raise UserError.expected("an option of load", name, do)
    types = get_type_hints(kind)
    return kind(**{name: argument(name, value, types[name]) for name, value in keywords.items()})


def takes_options(kind: type, without: Container[str] = ()) -> Callable[[Function], Function]:
    """Documents the `**options` of a function: `help` lists the fields of a dataclass.

    The decorator adds the fields to the function's signature as keywords with their defaults. It
    replaces the line `**options` of the docstring by the attributes in the dataclass's docstring.

    Args:
        kind: dataclass of the options.
        without: fields that the function does not accept.

    Returns:
        A decorator.
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
            if field.name not in without
        ]  # fmt: skip
        function.__signature__ = signature.replace(parameters=[*own, *keywords])
        if function.__doc__:  # None under `python -OO`
            function.__doc__ = re.sub(
                r"^( *)\*\*options:.*\n",
                lambda line: textwrap.indent(_descriptions(kind, without), line[1]),
                function.__doc__,
                flags=re.MULTILINE,
            )
        return function

    return describe


def _descriptions(kind: type, without: Container[str]) -> str:
    """Returns the sections "Attributes" of a dataclass and its base classes, joined."""
    found = []
    for one in reversed(kind.__mro__):
        doc = inspect.cleandoc(vars(one).get("__doc__") or "")
        _, _, section = doc.partition("\nAttributes:\n")
        section = textwrap.dedent(section.partition("\n\n")[0]).rstrip()
        found += re.split(r"\n(?=\w)", section)
    return "".join(f"{x}\n" for x in found if x and x.partition(":")[0] not in without)
