"""Reads the descriptions of exported models without TensorFlow."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tools.conversion.protocol import FOREIGN
from tools.errors import UserError
from tools.hashing import files_hash

PIPELINE_FILE = "pipeline.json"
MANIFEST_FILE = "manifest.json"  # of converted models
_ONNX_SUFFIX = ".onnx"
# Precisions of SavedModels, by the names of reports, and the Keras dtype policies of their models.
POLICIES = {"fp32": "float32", "fp16": "mixed_float16", "bf16": "mixed_bfloat16"}


def precision_of(pipeline: Mapping) -> str:
    """Returns the precision in which a SavedModel computes, a key of `POLICIES`.

    Args:
        pipeline: content of its `pipeline.json`; earlier exports, all in fp32, do not name it.
    """
    return pipeline.get("precision", "fp32")


def precision_of_policy(policy: str) -> str:
    """Returns the name of a Keras dtype policy in reports: a key of `POLICIES`, or its own."""
    return next((name for name, known in POLICIES.items() if known == policy), policy)


def is_onnx(path: str | Path) -> bool:
    """Returns whether a path names an ONNX file, judged by its suffix."""
    return Path(path).suffix.lower() == _ONNX_SUFFIX and not Path(path).is_dir()


class _Pipeline(dict):
    """Raises a UserError for a missing key, which an export of another version may lack."""

    def __missing__(self, key):
        raise UserError.expected(f"{key} in {PIPELINE_FILE}", "none", "Export the model again")


def read_pipeline(model_dir: str | Path, family: str | None = None) -> dict:
    """Reads the `pipeline.json` of a SavedModel without loading the model.

    Args:
        model_dir: directory of the SavedModel, with `assets/pipeline.json`; or an ONNX file.
        family: family to which the model must belong; None accepts all families.

    Raises:
        UserError: the directory is not an export of this family.
    """
    directory = _directory(model_dir)
    if is_onnx(directory):
        from tools.conversion.onnx_file import description

        return _of_family(description(directory), family, directory)
    path = directory / "assets" / PIPELINE_FILE
    if not (directory / "saved_model.pb").is_file() or not path.is_file():
        raise UserError.expected(
            "a SavedModel directory that this project exported",
            directory if directory.exists() else f"{directory}, which does not exist",
            "Export a model: `python -m FAMILY.export --help`",
        )
    return _parsed(path, family)


def describe(model_dir: str | Path, family: str | None = None) -> dict:
    """Reads the `pipeline.json` of a SavedModel or of a converted model; see `read_pipeline`."""
    directory = _directory(model_dir)
    if (directory / MANIFEST_FILE).is_file():
        return _parsed(directory / PIPELINE_FILE, family)
    return read_pipeline(directory, family)


def _directory(model_dir: str | Path) -> Path:
    if not isinstance(model_dir, str | os.PathLike) or not str(model_dir):
        raise UserError.expected("the path of a model's folder", repr(model_dir), "Correct it")
    return Path(model_dir)


def _parsed(path: Path, family: str | None) -> dict:
    try:
        pipeline = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError.expected(f"a readable {path}", error, "Export the model again") from error
    if not isinstance(pipeline, dict):
        raise UserError.expected(f"keys and values in {path}", "others", "Export the model again")
    return _of_family(pipeline, family, path)


def _of_family(pipeline: dict, family: str | None, path: Path) -> dict:
    found = pipeline.get("family")
    if family in (None, found):
        return _Pipeline(pipeline)
    if found == FOREIGN:
        raise UserError.expected(
            f"an export of {family}",
            f"{path}, which has no description of preprocessing and classes",
            "Run it with python -m tools.cli.run_bins, or an ONNX file with --onnx_path",
        )
    raise UserError.expected(f"an export of {family}", found, "Run it with its own family")


def source_files(model_dir: str | Path) -> list[Path]:
    """Returns the files of a SavedModel (graph, variables and assets) or of an ONNX model."""
    directory = Path(model_dir)
    if is_onnx(directory):
        from tools.conversion.onnx_file import files_of

        return files_of(directory)
    files = [directory / "saved_model.pb"]
    for folder in ("variables", "assets"):
        files += sorted(path for path in (directory / folder).rglob("*") if path.is_file())
    return files


def source_hash(model_dir: str | Path) -> str:
    """Returns the SHA-256 of the names and contents of `source_files`."""
    root = Path(model_dir)
    return files_hash(
        (path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name, path)
        for path in source_files(root)
    )
