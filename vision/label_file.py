"""Label files as people have them: the names of classes, in the order of their numbers."""

import ast
import contextlib
import json
import re
from pathlib import Path

from tools.errors import UserError

# `0 tench`, `0: tench`, `0,tench`, `0. tench`, `(0) tench`, `0 - tench`, `0 -> tench`, `"0","a"`
_NUMBERED = re.compile(
    r"""[("']?(?P<number>\d+)["']?"""
    r"""(?:\s*(?:[:,;|]|[-=]>|=)\s*|[.)]\s+|\s+-\s+|\s+)(?P<name>.+)"""
)
_NUMBERED_BEHIND = re.compile(  # `tench,0`, `tench 0`
    r"""(?P<name>.+?)(?:(?P<sign>\s*[:,;=|\t]\s*)|\s+)["']?(?P<number>\d+)["']?"""
)
_ITEM = "- "  # of a list in YAML
_WORDNET = re.compile(r"""["']?(n\d{8})["']?[\s,;:]+(.+)""")


def read_labels(path: str | Path, text: str) -> tuple[list[str], list[str]]:
    """Reads the names of classes and their numbers in WordNet.

    Args:
        path: for messages.
        text: a class a line, `INDEX WNID NAME`, `WNID INDEX NAME`, `WNID NAME`, `INDEX NAME` or
            `NAME`, where the index counts from 0 or 1 and `:`, `,`, `.`, `|` or `->` may stand
            behind it; `NAME INDEX`; or a list, also of YAML, or a dictionary by index or by name,
            as JSON or as Python writes it.

    Returns:
        Names, and WordNet's numbers of those that have one.

    Raises:
        UserError: classes are missing, or in another order.
    """
    labels = _labels(path, text)
    found = [_WORDNET.fullmatch(label) for label in labels]
    wordnet = [x[1] for x in found if x]
    if labels and all(found):
        labels = [x[2] for x in found]
        labels = _without_numbers(path, labels) or labels
    else:
        labels = [x[2] if x else label for x, label in zip(found, labels, strict=True)]
    return [" ".join(_unquoted(label).split()) for label in labels], wordnet


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
    headed = len(lines) > 1 and lines[0].endswith(":")
    if lines and all(line.startswith(_ITEM) for line in lines[headed:]):
        return [line.removeprefix(_ITEM) for line in lines[headed:]]
    # The first line may be names of columns.
    return _without_numbers(path, lines) or _without_numbers(path, lines[1:]) or lines


def _without_numbers(path: str | Path, lines: list[str]) -> list[str]:
    """The names in numbered lines; none where the lines are not numbered."""
    for pattern in (_NUMBERED, _NUMBERED_BEHIND):
        numbered = [found for line in lines if (found := pattern.fullmatch(line))]
        if len(numbered) < len(lines):
            continue
        names, numbers = [x["name"] for x in numbered], [int(x["number"]) for x in numbered]
        if pattern is _NUMBERED or _is_index(numbered, numbers):
            _check_order(path, numbers, lines)
            return names
    return []


def _is_index(numbered: list[re.Match], numbers: list[int]) -> bool:
    """Whether numbers behind names count them; `Boeing 747` and `room 0`, `room 1` are names."""
    if not all(x["sign"] for x in numbered):
        names = {x["name"] for x in numbered}
        if not 1 < len(names) == len(numbered):
            return False
    return sorted(numbers) in ([*range(first, first + len(numbers))] for first in (0, 1))


def _check_order(path: str | Path, numbers: list[int], lines: list[str]) -> None:
    """Refuses classes that do not follow each other from 0 or 1."""
    first = 1 if numbers and numbers[0] == 1 else 0
    for expected, (number, line) in enumerate(zip(numbers, lines, strict=True), start=first):
        if number != expected:
            raise UserError.expected(
                f"class {expected} next in {path}", line, "Sort the label file"
            )


def _of_literal(path: str | Path, content: list | dict) -> list[str]:
    if isinstance(content, list) and all(_is_pair(x) for x in content):
        content = dict(content)  # `[[0, "tench"], ...]`
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


def _is_pair(item: object) -> bool:
    """Whether an item of a list is a name with its number."""
    if not isinstance(item, list | tuple) or len(item) != 2:
        return False
    return [type(x) for x in item] in ([int, str], [str, int])


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
