"""Finds the checkpoint to open, and reads what it tells of its model."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tools.conversion.pipeline import PIPELINE_FILE
from tools.errors import UserError
from tools.files import to_json
from tools.training.checkpoint import open_checkpoint
from vision.classes import Classes, read_own_classes
from vision.config import ConfigOptions, PreprocessingConfig, preprocessing_words

# What a checkpoint of training holds beside its variables.
CONFIG_FILE, CLASSES_FILE = "config.yml", "classes.txt"


def named_checkpoint(checkpoint: str | None, config: ConfigOptions) -> str:
    """Gives the checkpoint that is named, else that of the config's file; empty without one."""
    return checkpoint or (config.load().run.pretrained if config.config else "")


def is_keras(checkpoint: str | Path | None) -> bool:
    """Tells whether a checkpoint is a Keras file, by its name."""
    return Path(checkpoint or "").suffix.lower() == ".keras"


def describe_keras(path: str | Path, description: Mapping) -> None:
    """Puts what a model's `pipeline.json` says into a Keras file, beside what Keras reads."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(PIPELINE_FILE, to_json(description, indent=1))


def keras_description(path: str | Path) -> dict | None:
    """Reads what `describe_keras` wrote; None: the file has no such part, or cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(PIPELINE_FILE))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    return found if isinstance(found, dict) else None


def with_recipe(checkpoint: str | None, config: ConfigOptions) -> ConfigOptions:
    """Takes from a checkpoint what the options of its config leave out.

    Of a training that is the file of its config; of a Keras file architecture, classes and
    preprocessing.

    Args:
        checkpoint: of any kind, or none.
        config: options of the config.

    Raises:
        UserError: neither a Keras file nor the options tell the preprocessing.
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
                "a Keras file that tells its preprocessing, as vision.export writes it",
                path,
                "Export it again, or name the --config or the --image_size it was trained with",
            )
        return config
    words = {"arch": told["architecture"], "num_classes": str(told["num_classes"])}
    if not config.config:
        words |= preprocessing_words(told["preprocessing"])
    return dataclasses.replace(config, words={**words, **config.words})


def own_classes(checkpoint: str | Path | None) -> Classes:
    """Gives the classes that a checkpoint was trained on; empty where it does not tell them.

    Args:
        checkpoint: of any kind, or none.

    Raises:
        UserError: it cannot be read.
    """
    if is_keras(checkpoint):
        told = keras_description(checkpoint) or {}
        return Classes(told.get("class_names"), told.get("class_folders"))
    if not (checkpoint and Path(checkpoint).is_dir()):
        return Classes()
    return read_own_classes(open_checkpoint(checkpoint).path / CLASSES_FILE)
