"""Finds the checkpoint to open, and reads the description of the model in it."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tools.conversion.pipeline import PIPELINE_FILE
from tools.errors import UserError
from tools.files import to_json
from tools.training.checkpoint import open_checkpoint
from tools.weights.hub import local_source
from vision.classes import Classes, read_own_classes
from vision.config import ConfigOptions, PreprocessingConfig, preprocessing_words

# Files in a training checkpoint besides the variables.
CONFIG_FILE, CLASSES_FILE = "config.yml", "classes.txt"


def named_checkpoint(checkpoint: str | None, config: ConfigOptions) -> str:
    """Returns the path of `checkpoint` if given, else of the one in the config file.

    A file on the Hugging Face Hub, `hf:owner/name[@revision]/path`, is downloaded first.

    Returns:
        The path; empty if neither names a checkpoint.

    Raises:
        UserError: the config cannot be read, or the file cannot be downloaded.
    """
    source = checkpoint or (config.load().run.pretrained if config.config else "")
    return str(local_source(source)) if source else ""


def is_keras(checkpoint: str | Path | None) -> bool:
    """Returns whether a checkpoint is a Keras file, judged by its suffix."""
    return Path(checkpoint or "").suffix.lower() == ".keras"


def describe_keras(path: str | Path, description: Mapping) -> None:
    """Adds the description of the model (`pipeline.json`) to a Keras file. Keras ignores it."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(PIPELINE_FILE, to_json(description, indent=1))


def keras_description(path: str | Path) -> dict | None:
    """Returns the description that `describe_keras` wrote; None if it is missing or unreadable."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(PIPELINE_FILE))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    return found if isinstance(found, dict) else None


def with_recipe(checkpoint: str | None, config: ConfigOptions) -> ConfigOptions:
    """Completes configuration options with those stored in a checkpoint.

    A training checkpoint supplies its config file. A Keras file supplies architecture, classes and
    preprocessing.

    Args:
        checkpoint: checkpoint of any kind, or None.
        config: options of the configuration.

    Raises:
        UserError: neither the Keras file nor the options contain the preprocessing.
    """
    if is_keras(checkpoint):
        return _with_keras(checkpoint, config)
    if config.config or not (checkpoint and Path(checkpoint).is_dir()):
        return config
    return dataclasses.replace(config, config=str(open_checkpoint(checkpoint).path / CONFIG_FILE))


def _with_keras(path: str, config: ConfigOptions) -> ConfigOptions:
    told = keras_description(path)
    if told is None:
        known = {x.name for x in dataclasses.fields(PreprocessingConfig)}
        asked = {*config.words, *(key.rpartition(".")[2] for key in config.set)}
        if Path(path).is_file() and not (config.config or known & asked):
            raise UserError.expected(
                "a Keras file with its preprocessing, as written by vision.export",
                path,
                "Export it again, or give the --config or --image_size that it was trained with",
            )
        return config
    words = {"arch": told["architecture"], "num_classes": str(told["num_classes"])}
    if not config.config:
        words |= preprocessing_words(told["preprocessing"])
    return dataclasses.replace(config, words={**words, **config.words})


def own_classes(checkpoint: str | Path | None) -> Classes:
    """Returns the classes that a checkpoint was trained on; empty if they are not stored in it.

    Args:
        checkpoint: checkpoint of any kind, or None.

    Raises:
        UserError: the file of classes cannot be read.
    """
    if is_keras(checkpoint):
        told = keras_description(checkpoint) or {}
        return Classes(told.get("class_names"), told.get("class_folders"))
    if not (checkpoint and Path(checkpoint).is_dir()):
        return Classes()
    return read_own_classes(open_checkpoint(checkpoint).path / CLASSES_FILE)
