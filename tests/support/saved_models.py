"""SavedModels of small functions, described by a `pipeline.json` as exports are."""

import json
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf


def save_model(
    directory: Path,
    module: tf.Module,
    functions: Mapping[str, tf.types.experimental.GenericFunction],
    pipeline: Mapping = {"family": "toy"},
) -> Path:
    """Writes a SavedModel.

    Args:
        directory: to write to.
        module: holder of the variables that the functions read.
        functions: `tf.function`s with an input signature, by the name of their signature.
        pipeline: content of `assets/pipeline.json`.

    Returns:
        The directory.
    """
    signatures = {name: function.get_concrete_function() for name, function in functions.items()}
    tf.saved_model.save(module, str(directory), signatures)
    (directory / "assets").mkdir(exist_ok=True)
    (directory / "assets" / "pipeline.json").write_text(json.dumps(pipeline))
    return directory
