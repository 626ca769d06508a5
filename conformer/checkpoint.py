"""Checkpoints of training: their files, and models with their weights."""

from conformer.model import ConformerTransducer
from tools.training.checkpoint import Checkpoint, restore

VOCABULARY_FILE, CONFIG_FILE = "vocabulary.json", "config.yml"


def load_weights(model: ConformerTransducer, checkpoint: Checkpoint) -> None:
    """Gives a model the weights of a checkpoint, strictly."""
    variables = {v.path: v for v in model.weights}
    restore(variables, checkpoint.weights(), str(checkpoint.path))
