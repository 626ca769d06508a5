"""Exported SavedModels: writing one, what it says of itself, and its functions."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from tools.errors import UserError
from tools.files import new_folder

PIPELINE_FILE = "pipeline.json"
_EXPORTED = {"saved_model.pb", "fingerprint.pb", "variables", "assets"}


class TensorSpec(NamedTuple):
    """Name, dtype and shape of a tensor.

    A dimension is a number, a `(low, high)` range with both ends inside, or None where it is free.
    """

    name: str
    dtype: str
    shape: tuple[int | tuple[int, int] | None, ...]


def write_saved_model(
    output_dir: str | Path,
    functions: Mapping[str, tf.types.experimental.PolymorphicFunction],
    weights: Iterable,
    pipeline: Mapping,
) -> None:
    """Writes a SavedModel that needs nothing but TensorFlow, whole or not at all.

    What somebody put beside an earlier export in the same place, a card or samples, stays.

    Args:
        output_dir: must not exist yet, or be an earlier export.
        functions: `tf.function`s with their input signatures, by the names of the signatures.
        weights: the Keras variables that they read; the Keras objects stay out of the export.
        pipeline: what converters, runners and servers need to know, for `read_pipeline`.

    Raises:
        UserError: the place holds something else, or cannot be written.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not (output_dir / "saved_model.pb").is_file():
        raise UserError.expected(
            "an --output_dir that is new or an earlier export", output_dir, "Choose another"
        )
    module = tf.Module()
    module.weights = [variable.value for variable in weights]
    concrete = {name: function.get_concrete_function() for name, function in functions.items()}
    with new_folder(output_dir, replace=True) as folder:
        try:
            tf.saved_model.save(module, str(folder), concrete)
        except tf.errors.OpError as error:
            raise OSError(error) from error
        (folder / "assets").mkdir(exist_ok=True)
        (folder / "assets" / PIPELINE_FILE).write_text(json.dumps(pipeline, indent=1))
        for path in output_dir.iterdir() if output_dir.exists() else ():
            if path.name not in _EXPORTED:
                copy = shutil.copytree if path.is_dir() else shutil.copy2
                copy(path, folder / path.name)


class _Pipeline(dict):
    """Says that a key is missing as a program should: an export of another version lacks it."""

    def __missing__(self, key):
        raise UserError.expected(f"{key} in {PIPELINE_FILE}", "none", "Export the model again")


def read_pipeline(model_dir: str | Path, family: str | None = None) -> dict:
    """Reads what an exported model says of itself, without loading it.

    Args:
        model_dir: a SavedModel directory with its `pipeline.json` among the assets.
        family: that it must be of; None: any.

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
        pipeline = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError.expected(f"a readable {path}", error, "Export the model again") from error
    if not isinstance(pipeline, dict):
        raise UserError.expected(f"keys and values in {path}", "others", "Export the model again")
    if family not in (None, pipeline.get("family")):
        raise UserError.expected(
            f"an export of {family}", pipeline.get("family"), "Run it with its own family"
        )
    return _Pipeline(pipeline)


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
