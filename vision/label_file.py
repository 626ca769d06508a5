"""Reads label files in the usual formats: names of classes in order of class number."""

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
_ANNOTATED = re.compile(r".+\.(?:jpe?g|png)\s+\d+", re.IGNORECASE)  # `a.JPEG 65`
_ITEM = "- "  # start of a list item in YAML
_WORDNET = re.compile(r"""["']?(n\d{8})["']?[\s,;:]+(.+)""")


def read_labels(path: str | Path, text: str) -> tuple[list[str], list[str]]:
    """Reads the names and the WordNet ids of classes.

    Args:
        path: path of the file, for error messages.
        text: content of the file, in one of these formats: one class per line, as
            `INDEX WNID NAME`, `WNID INDEX NAME`, `WNID NAME`, `INDEX NAME`, `NAME` or
            `NAME INDEX`, where the index starts at 0 or 1 and can be followed by `:`, `,`, `.`,
            `|` or `->`; a list or a dictionary by index or by name, in JSON or Python syntax; or a
            list in YAML.

    Returns:
        The names, and the WordNet ids of the classes that have one.

    Raises:
        UserError: the indices are not consecutive, or the text has another format, such as that of
            a list of images with their labels.
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
    # A dictionary with one class per line whose names contain unescaped quotes.
    lines = text.strip().strip("{}")
    if not all(_NUMBERED.fullmatch(line.strip()) for line in lines.splitlines() if line.strip()):
        raise _unfit(path, "another format")
    return _of_lines(path, lines)


def _of_lines(path: str | Path, text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and all(map(_ANNOTATED.fullmatch, lines)):
        raise UserError.expected(
            f"names of classes in {path}",
            "names of images with labels",
            "Give the file to python -m vision.eval as --anno_file",
        )
    headed = len(lines) > 1 and lines[0].endswith(":")
    if lines and all(line.startswith(_ITEM) for line in lines[headed:]):
        return [line.removeprefix(_ITEM) for line in lines[headed:]]
    # The first line can be a header with names of columns.
    return _without_numbers(path, lines) or _without_numbers(path, lines[1:]) or lines


def _without_numbers(path: str | Path, lines: list[str]) -> list[str]:
    """Returns the names in numbered lines; an empty list if the lines are not numbered."""
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
    """Returns whether numbers after names are indices. In `Boeing 747`, `room 0` they are not."""
    if not all(x["sign"] for x in numbered):
        names = {x["name"] for x in numbered}
        if not 1 < len(names) == len(numbered):
            return False
    return sorted(numbers) in ([*range(first, first + len(numbers))] for first in (0, 1))


def _check_order(path: str | Path, numbers: list[int], lines: list[str]) -> None:
    """Raises UserError if the indices are not consecutive from 0 or 1."""
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
            raise _unfit(path, "keys that are not numbers") from None
        numbers = sorted(content)
        _check_order(path, numbers, [f"class {number}" for number in numbers])
        content = [content[number] for number in numbers]
    labels = [" ".join(map(str, x)) if isinstance(x, list | tuple) else x for x in content]
    if not all(isinstance(x, str) for x in labels):
        raise _unfit(path, "values that are not names")
    return labels


def _is_pair(item: object) -> bool:
    """Returns whether an item of a list is a pair of a name and its number."""
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
        f"a list or dictionary of class names in {path}", received, "Write one class per line"
    )


def _unquoted(name: str) -> str:
    """Removes a comma after a name and quotes around it."""
    name = name.strip()
    quoted = re.fullmatch(r"""(["'])(.*)\1,?""", name)
    return quoted[2] if quoted else name.removesuffix(",")
