"""Files in training checkpoints of the Conformer, and loading of their weights."""

import logging

from conformer.model import ConformerTransducer
from tools.training.checkpoint import Checkpoint, restore

VOCABULARY_FILE, CONFIG_FILE = "vocabulary.json", "config.yml"
# Parts that only some losses use: name and the key that leaves them out.
_HEADS = {
    "ctc_head": ("CTC head", "model.ctc_weight: 0"),
    "simple_joint": ("simple joint network", "loss.kind is not pruned"),
}


def load_weights(
    model: ConformerTransducer, checkpoint: Checkpoint, *, may_lack_heads: bool = False
) -> None:
    """Assigns the weights of a checkpoint to a model.

    Args:
        model: a built model.
        checkpoint: training checkpoint of the same architecture and vocabulary size.
        may_lack_heads: whether the parts that only some losses use (the CTC head and the simple
            joint network) may be missing in the checkpoint, and keep their initial weights then. A
            part that the model does not have is never used.

    Raises:
        UserError: the names or shapes in the checkpoint differ from those of the model.
    """
    variables, weights = {v.path: v for v in model.weights}, checkpoint.weights()
    source = str(checkpoint.path)
    for part, (what, key) in _HEADS.items():
        ours, theirs = ({x for x in names if f"/{part}/" in x} for names in (variables, weights))
        if theirs and not ours:
            logging.info("the %s of %s is not used (%s)", what, source, key)
            weights = {name: array for name, array in weights.items() if name not in theirs}
        elif ours and not theirs and may_lack_heads:
            logging.info("the %s starts untrained: %s has none", what, source)
            variables = {name: v for name, v in variables.items() if name not in ours}
    restore(variables, weights, source)
