"""Finds the checkpoint that the flags name, and takes from it what they leave out."""

from pathlib import Path
from types import SimpleNamespace

from tools.errors import UserError
from tools.training.checkpoint import open_checkpoint
from vision.config import config_of

# What a checkpoint of training holds beside its variables.
CONFIG_FILE, CLASSES_FILE = "config.yml", "classes.txt"


def named_checkpoint(values: SimpleNamespace) -> str:
    """The checkpoint of --checkpoint or --pretrained, else of the --config; empty if none is named.

    Args:
        values: flags, among them those three.

    Raises:
        UserError: two are named.
    """
    if values.checkpoint and values.pretrained:
        raise UserError.expected("--checkpoint or --pretrained", "both", "Leave one out")
    named = values.checkpoint or values.pretrained
    return named or (config_of(values).run.pretrained if values.config else "")


def with_recipe(values: SimpleNamespace, checkpoint: str | None) -> SimpleNamespace:
    """Gives flags the config and the classes of a checkpoint of training where they name none.

    Args:
        values: flags, among them `config` and `imagenet_label_file`.
        checkpoint: of any kind, or none.
    """
    if not (checkpoint and Path(checkpoint).is_dir()):
        return values
    path = open_checkpoint(checkpoint).path
    found = {"config": path / CONFIG_FILE, "imagenet_label_file": path / CLASSES_FILE}
    missing = {name: str(file) for name, file in found.items() if not getattr(values, name)}
    return SimpleNamespace(**vars(values) | missing)
