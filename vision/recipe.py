"""Finds the checkpoint to open, and reads what it tells of its model."""

import dataclasses
from pathlib import Path

from tools.training.checkpoint import open_checkpoint
from vision.classes import Classes, read_own_classes
from vision.config import ConfigOptions

# What a checkpoint of training holds beside its variables.
CONFIG_FILE, CLASSES_FILE = "config.yml", "classes.txt"


def named_checkpoint(checkpoint: str | None, config: ConfigOptions) -> str:
    """Gives the checkpoint that is named, else that of the config's file; empty without one."""
    return checkpoint or (config.load().run.pretrained if config.config else "")


def with_recipe(checkpoint: str | None, config: ConfigOptions) -> ConfigOptions:
    """Takes the config's file from a checkpoint of training where the options name none.

    Args:
        checkpoint: of any kind, or none.
        config: options of the config.
    """
    if config.config or not (checkpoint and Path(checkpoint).is_dir()):
        return config
    return dataclasses.replace(config, config=str(open_checkpoint(checkpoint).path / CONFIG_FILE))


def own_classes(checkpoint: str | Path | None) -> Classes:
    """Gives the classes that a checkpoint was trained on; empty where it does not tell them.

    Args:
        checkpoint: of any kind, or none.

    Raises:
        UserError: it cannot be read.
    """
    if not (checkpoint and Path(checkpoint).is_dir()):
        return Classes()
    return read_own_classes(open_checkpoint(checkpoint).path / CLASSES_FILE)
