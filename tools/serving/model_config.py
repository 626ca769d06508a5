"""The model config file of TensorFlow Serving: models and the labels of their versions.

Source: TensorFlow Serving, `model_server_config.proto`, in the text format of protocol buffers.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.errors import UserError

MODELS_CONFIG = "models.config"  # in the root folder of the models
_TOKENS = re.compile(
    r"""(?P<space>\s+|\#[^\n]*) | (?P<mark>[{}:,;\[\]<>]) | (?P<name>[A-Za-z_][\w.]*)
    | (?P<number>-?\d+) | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""",
    re.VERBOSE,
)
_OPENING, _CLOSING = ("{", "<"), ("}", ">")
Message = dict[str, list[Any]]


def labels_of(path: Path) -> dict[str, dict[str, int]]:
    """Returns the labels of versions by model.

    Args:
        path: model config file; without it, there are no labels.

    Raises:
        UserError: the file cannot be read, or has another form.
    """
    if not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, str(error)) from error
    message = parse(text, path)
    found: dict[str, dict[str, int]] = {}
    try:
        for models in message.get("model_config_list", ()):
            for model in models.get("config", ()):
                pairs = model.get("version_labels", ())
                labels = {pair["key"][0]: int(pair["value"][0]) for pair in pairs}
                found[model["name"][0]] = labels
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _bad(path, f"a model or a label without {error}") from error
    return found


def parse(text: str, path: Path) -> Message:
    """Returns the fields of a message in the text format of protocol buffers.

    Args:
        text: the message.
        path: its file, for errors.

    Returns:
        The values of each field, as a list. Messages are dictionaries of the same form.

    Raises:
        UserError: the text has another form.
    """
    tokens = _tokens(text, path)
    found = _message(tokens, path, "")
    if next(tokens, None) is not None:
        raise _bad(path, "a closing brace too many")
    return found


def _tokens(text: str, path: Path) -> Iterator[str]:
    place = 0
    while place < len(text):
        match = _TOKENS.match(text, place)
        if match is None:
            raise _bad(path, f"{text[place : place + 20]!r}")
        place = match.end()
        if match.lastgroup != "space":
            yield match[0]


def _message(tokens: Iterator[str], path: Path, closing: str) -> Message:
    found: Message = {}
    for token in tokens:
        if token in _CLOSING and token == closing:
            return found
        if token in (",", ";"):
            continue
        if not re.fullmatch(r"[A-Za-z_][\w.]*", token):
            raise _bad(path, token)
        value = next(tokens, "")
        if value == ":":
            value = next(tokens, "")
        values = found.setdefault(token, [])
        if value != "[":
            values.append(_value(value, tokens, path, token))
            continue
        while (value := next(tokens, "")) != "]":
            if value != ",":
                values.append(_value(value, tokens, path, token))
    if closing:
        raise _bad(path, "a brace that is not closed")
    return found


def _value(value: str, tokens: Iterator[str], path: Path, name: str) -> Any:
    """Returns the value of a field that begins with a token."""
    if value in _OPENING:
        return _message(tokens, path, _CLOSING[_OPENING.index(value)])
    if value[:1] in ('"', "'"):
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    if re.fullmatch(r"-?\d+", value):
        return int(value)
    if re.fullmatch(r"\w+", value):
        return value
    raise _bad(path, f"{name} without a value")


def _bad(path: Path, received: str) -> UserError:
    return UserError.expected(f"a model config file in {path}", received, "Correct the file")


def merged(first: Mapping[str, Mapping[str, int]], second: Mapping[str, Mapping[str, int]]) -> dict:
    """Returns the labels of two sources; the second one has priority.

    Args:
        first: number of the version of each label, by model.
        second: further labels.
    """
    names = {*first, *second}
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in names}
