"""Runners: exported models behind one protocol, whatever executes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from tools.errors import UserError

PIPELINE_FILE = "pipeline.json"


class TensorSpec(NamedTuple):
    """Name, dtype and shape of an input; None is a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Runner(Protocol):
    """An exported model that can be run.

    Attributes:
        pipeline: what the export says of the model (`pipeline.json`).
        signatures: inputs of every signature by its name.
        mode: how it runs, for reports.
    """

    pipeline: Mapping
    signatures: Mapping[str, tuple[TensorSpec, ...]]
    mode: str

    def run(
        self, inputs: Mapping[str, np.ndarray], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Runs a batch and returns the outputs by name."""


class EagerRunner:
    """TensorFlow's own runtime on a SavedModel."""

    mode = "eager"

    def __init__(self, model_dir: Path, pipeline: Mapping):
        self.pipeline = pipeline
        self._loaded = tf.saved_model.load(str(model_dir))
        self._functions = dict(self._loaded.signatures)
        self.signatures = {
            name: tuple(
                TensorSpec(key, spec.dtype.name, tuple(spec.shape.as_list()))
                for key, spec in sorted(function.structured_input_signature[1].items())
            )
            for name, function in self._functions.items()
        }

    def run(self, inputs, signature="serving_default"):
        """Runs a batch and returns the outputs by name."""
        tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        return {k: v.numpy() for k, v in self._functions[signature](**tensors).items()}


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
            "Make one with `python -m conformer.export --checkpoint RUN_DIR --output_dir D`",
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError.expected(f"a readable {path}", error, "Export the model again") from error


def load(model_dir: str | Path) -> Runner:
    """Opens an exported model.

    Raises:
        UserError: the directory is not an export, or damaged.
    """
    pipeline = read_pipeline(model_dir)
    try:
        return EagerRunner(Path(model_dir), pipeline)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise UserError.expected(
            f"a readable SavedModel in {model_dir}",
            str(error).splitlines()[0],
            "Export the model again",
        ) from error
