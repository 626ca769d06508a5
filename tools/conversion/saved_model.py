"""What an exported SavedModel says of itself, and its functions."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from tools.errors import UserError

PIPELINE_FILE = "pipeline.json"


class TensorSpec(NamedTuple):
    """Name, dtype and shape of a tensor.

    A dimension is a number, a `(low, high)` range with both ends inside, or None where it is free.
    """

    name: str
    dtype: str
    shape: tuple[int | tuple[int, int] | None, ...]


def read_pipeline(model_dir: str | Path) -> dict:
    """Reads what an exported model says of itself, without loading it.

    Args:
        model_dir: a SavedModel directory with its `pipeline.json` among the assets.

    Raises:
        UserError: the directory is not such an export.
    """
    directory = Path(model_dir)
    path = directory / "assets" / PIPELINE_FILE
    if not (directory / "saved_model.pb").is_file() or not path.is_file():
        raise UserError.expected(
            "a SavedModel directory that this project exported",
            directory if directory.exists() else f"{directory}, which does not exist",
            "Export a model: `python -m FAMILY.export --help`",
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError.expected(f"a readable {path}", error, "Export the model again") from error


def load_saved_model(model_dir: str | Path) -> Mapping[str, tf.types.experimental.ConcreteFunction]:
    """Loads the functions of a SavedModel by the names of their signatures.

    Raises:
        UserError: the directory is damaged.
    """
    try:
        loaded = tf.saved_model.load(str(model_dir))
    # IndexError: variables that end early (TensorFlow 2.16).
    except (OSError, ValueError, IndexError, tf.errors.OpError) as error:
        raise UserError.expected(
            f"a readable SavedModel in {model_dir}",
            str(error).splitlines()[0],
            "Export the model again",
        ) from error
    functions = dict(loaded.signatures)
    for function in functions.values():
        function.keep_alive = loaded  # the variables end with the object that they were loaded in
    return functions


def input_specs(function: tf.types.experimental.ConcreteFunction) -> tuple[TensorSpec, ...]:
    """Lists the inputs of a signature by name."""
    return tuple(
        TensorSpec(name, spec.dtype.name, tuple(spec.shape.as_list()))
        for name, spec in sorted(function.structured_input_signature[1].items())
    )


def source_files(model_dir: str | Path) -> list[Path]:
    """Lists what a SavedModel computes with: graph, variables and assets."""
    directory = Path(model_dir)
    files = [directory / "saved_model.pb"]
    for folder in ("variables", "assets"):
        files += sorted(path for path in (directory / folder).rglob("*") if path.is_file())
    return files


def source_hash(model_dir: str | Path) -> str:
    """Computes a SHA-256 over the names and contents of `source_files`."""
    digest = hashlib.sha256()
    for path in source_files(model_dir):
        digest.update(path.relative_to(model_dir).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
