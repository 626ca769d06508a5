"""Hugging Face folders: JSON files, and weights in one file or in shards."""

import json
import reprlib
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.errors import UserError
from tools.weights.files import SafeTensors, read_weights

_INDEX = ".index.json"  # suffix of the index of a file that is split into shards


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that contains an object.

    Raises:
        UserError: the file is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not a JSON file"
        raise UserError.expected(
            f"{path.name} of a Hugging Face folder", f"{path}: {reason}", "Correct the folder"
        ) from error
    check_mapping(content, path)
    return content


def check_mapping(content: Any, path: Path) -> None:
    """Checks that a part of a JSON file is an object.

    Raises:
        UserError: it is not an object.
    """
    if not isinstance(content, dict):
        raise UserError.expected(f"keys and values in {path}", _shown(content), "Correct the file")


def read_folder_weights(folder: Path, names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """Returns the tensors of a Hugging Face folder.

    Args:
        folder: folder with one of the files, or with its shards and their index.
        names: names of weight files, such as `model.safetensors`, in the order of preference.

    Returns:
        Arrays by name. Those of `.safetensors` files are read when they are used.

    Raises:
        UserError: there is no such file, or a file is damaged.
    """
    for name in names:
        if (folder / name).exists():
            return _tensors(folder / name)
        index = folder / f"{name}{_INDEX}"
        if index.exists():
            return ChainMap(*map(_tensors, _shards(index)))
    raise UserError.expected(
        f"{' or '.join(names)} in {folder}, or their index", "none", "Complete the folder"
    )


def _tensors(path: Path) -> Mapping[str, np.ndarray]:
    return SafeTensors(path) if path.suffix == ".safetensors" else read_weights(path)


def _shards(index: Path) -> list[Path]:
    """Returns the files that an index lists, in the folder of the index."""
    files = read_json(index).get("weight_map")
    files = set(files.values()) if isinstance(files, Mapping) else set()
    wrong = [x for x in files if not isinstance(x, str) or Path(x).name != x]
    if wrong or not files:
        raise UserError.expected(
            f"a weight_map from tensors to files in the folder of {index}",
            _shown(wrong[0]) if wrong else "none",
            "Correct the file",
        )
    return [index.with_name(x) for x in sorted(files)]


def _shown(value: Any) -> str:
    """Returns a value in short form on one line; None as "null"."""
    return "null" if value is None else reprlib.repr(value)
