"""Label files as people have them: the names of classes, in the order of their numbers."""

import ast
import contextlib
import json
import re
from pathlib import Path

from tools.errors import UserError

# `0 tench`, `0: tench`, `0,tench`, `0. tench`, `0 - tench`, `"0","tench"`
_NUMBERED = re.compile(
    r"""["']?(?P<number>\d+)["']?(?:\s*[:,;=]\s*|[.)]\s+|\s+-\s+|\s+)(?P<name>.+)"""
)
_NUMBERED_BEHIND = re.compile(  # `tench,0`
    r"""(?P<name>.+?)\s*[:,;=\t]\s*["']?(?P<number>\d+)["']?"""
)
_WORDNET = re.compile(r"""["']?(n\d{8})["']?[\s,;:]+(.+)""")


def read_labels(path: str | Path, text: str) -> tuple[list[str], list[str]]:
    """Reads the names of classes and their numbers in WordNet.

    Args:
        path: for messages.
        text: a class a line, `INDEX WNID NAME`, `WNID NAME`, `INDEX NAME` or `NAME`, where the
            index counts from 0 or 1 and `:`, `,` or `.` may stand behind it; `NAME,INDEX`; or a
            list, or a dictionary by index or by name, as JSON or as Python writes it.

    Returns:
        Names, and WordNet's numbers of those that have one.

    Raises:
        UserError: classes are missing, or in another order.
    """
    names, wordnet = [], []
    for label in _labels(path, text):
        found = _WORDNET.fullmatch(label)
        if found:
            wordnet.append(found[1])
        names.append(" ".join(_unquoted(found[2] if found else label).split()))
    return names, wordnet


def _labels(path: str | Path, text: str) -> list[str]:
    if text.strip()[:1] not in ("{", "["):
        return _of_lines(path, text)
    content = _parsed(text)
    if content is not None:
        return _of_literal(path, content)
    # A dictionary of a class a line, with quotes inside of its quotes.
    lines = text.strip().strip("{}")
    if not all(_NUMBERED.fullmatch(line.strip()) for line in lines.splitlines() if line.strip()):
        raise _unfit(path, "another one")
    return _of_lines(path, lines)


def _of_lines(path: str | Path, text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for pattern in (_NUMBERED, _NUMBERED_BEHIND):
        rows, numbered = lines, [pattern.fullmatch(line) for line in lines]
        if len(rows) > 1 and not numbered[0] and all(numbered[1:]):  # names of columns
            rows, numbered = rows[1:], numbered[1:]
        if not all(numbered):
            continue
        numbers = [int(found["number"]) for found in numbered]
        # Names such as `Boeing, 747` end with a number that is no index.
        counted = [[*range(first, first + len(numbers))] for first in (0, 1)]
        if pattern is _NUMBERED or sorted(numbers) in counted:
            _check_order(path, numbers, rows)
            return [found["name"] for found in numbered]
    return lines


def _check_order(path: str | Path, numbers: list[int], lines: list[str]) -> None:
    """Refuses classes that do not follow each other from 0 or 1."""
    first = 1 if numbers and numbers[0] == 1 else 0
    for expected, (number, line) in enumerate(zip(numbers, lines, strict=True), start=first):
        if number != expected:
            raise UserError.expected(
                f"class {expected} next in {path}", line, "Sort the label file"
            )


def _of_literal(path: str | Path, content: list | dict) -> list[str]:
    if isinstance(content, dict):
        if content and all(isinstance(x, int) for x in content.values()):
            content = {number: name for name, number in content.items()}  # `{"tench": 0, ...}`
        try:
            content = {int(key): content[key] for key in content}
        except (TypeError, ValueError):
            raise _unfit(path, "keys that are no numbers") from None
        numbers = sorted(content)
        _check_order(path, numbers, [f"class {number}" for number in numbers])
        content = [content[number] for number in numbers]
    labels = [" ".join(map(str, x)) if isinstance(x, list | tuple) else x for x in content]
    if not all(isinstance(x, str) for x in labels):
        raise _unfit(path, "values that are no names")
    return labels


def _parsed(text: str) -> list | dict | None:
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            content = parse(text.strip())
            return content if isinstance(content, list | dict) else None
    return None


def _unfit(path: str | Path, received: str) -> UserError:
    return UserError.expected(
        f"a list or dictionary of class names in {path}", received, "Write a class a line"
    )


def _unquoted(name: str) -> str:
    """Takes a comma behind a name and quotes around it away."""
    name = name.strip()
    quoted = re.fullmatch(r"""(["'])(.*)\1,?""", name)
    return quoted[2] if quoted else name.removesuffix(",")
