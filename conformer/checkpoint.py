"""Files in training checkpoints of the Conformer, and loading of their weights."""

import logging

from conformer.model import ConformerTransducer
from tools.training.checkpoint import Checkpoint, restore

VOCABULARY_FILE, CONFIG_FILE = "vocabulary.json", "config.yml"


def load_weights(model: ConformerTransducer, checkpoint: Checkpoint) -> None:
    """Assigns the weights of a checkpoint to a model.

    A CTC head that only the model or only the checkpoint has is left as it is: it keeps its initial
    weights, or its weights are not used.

    Args:
        model: a built model.
        checkpoint: training checkpoint of the same architecture and vocabulary size.

    Raises:
        UserError: the names or shapes in the checkpoint differ from those of the model.
    """
    variables, weights = {v.path: v for v in model.weights}, checkpoint.weights()
    source = str(checkpoint.path)
    head = {name for name in (*variables, *weights) if _is_ctc_head(name)}
    if head and not all(name in weights for name in head):
        logging.info("the CTC head starts untrained: %s has none", source)
    elif head and not all(name in variables for name in head):
        logging.info("the CTC head of %s is not used (model.ctc_weight: 0)", source)
    else:
        head = set()
    restore(
        {name: v for name, v in variables.items() if name not in head},
        {name: array for name, array in weights.items() if name not in head},
        source,
    )


def _is_ctc_head(name: str) -> bool:
    return "/ctc_head/" in name
