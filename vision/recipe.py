"""Finds the checkpoint to open, and takes from it what the options leave out."""

import dataclasses
from pathlib import Path

from tools.training.checkpoint import open_checkpoint
from vision.config import ConfigOptions

# What a checkpoint of training holds beside its variables.
CONFIG_FILE, CLASSES_FILE = "config.yml", "classes.txt"


def named_checkpoint(checkpoint: str | None, config: ConfigOptions) -> str:
    """Gives the checkpoint that is named, else that of the config's file; empty without one."""
    return checkpoint or (config.load().run.pretrained if config.config else "")


def with_recipe(
    checkpoint: str | None, config: ConfigOptions, label_file: str | None
) -> tuple[ConfigOptions, str | None]:
    """Takes the config's file and the label file from a checkpoint where they are not named.

    Args:
        checkpoint: of any kind, or none; that of a training holds both files.
        config: options of the config.
        label_file: names of the classes.
    """
    if not (checkpoint and Path(checkpoint).is_dir()):
        return config, label_file
    path = open_checkpoint(checkpoint).path
    if not config.config:
        config = dataclasses.replace(config, config=str(path / CONFIG_FILE))
    return config, label_file or str(path / CLASSES_FILE)
