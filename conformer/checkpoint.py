"""Files in training checkpoints of the Conformer, and loading of their weights."""

from conformer.model import ConformerTransducer
from tools.training.checkpoint import Checkpoint, restore

VOCABULARY_FILE, CONFIG_FILE = "vocabulary.json", "config.yml"


def load_weights(model: ConformerTransducer, checkpoint: Checkpoint) -> None:
    """Assigns the weights of a checkpoint to a model.

    Args:
        model: a built model.
        checkpoint: training checkpoint of the same architecture and vocabulary size.

    Raises:
        UserError: the names or shapes in the checkpoint differ from those of the model.
    """
    variables = {v.path: v for v in model.weights}
    restore(variables, checkpoint.weights(), str(checkpoint.path))
