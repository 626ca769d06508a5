"""Files in training checkpoints of the Conformer, and loading of their weights."""

import logging
from collections.abc import Iterable

from conformer.model import ConformerTransducer
from tools.training.checkpoint import Checkpoint, restore

VOCABULARY_FILE, CONFIG_FILE = "vocabulary.json", "config.yml"


def load_weights(
    model: ConformerTransducer, checkpoint: Checkpoint, *, may_lack_ctc_head: bool = False
) -> None:
    """Assigns the weights of a checkpoint to a model.

    Args:
        model: a built model.
        checkpoint: training checkpoint of the same architecture and vocabulary size.
        may_lack_ctc_head: whether a CTC head may be missing in the checkpoint, and keeps its
            initial weights then. A CTC head that the model does not have is never used.

    Raises:
        UserError: the names or shapes in the checkpoint differ from those of the model.
    """
    variables, weights = {v.path: v for v in model.weights}, checkpoint.weights()
    source = str(checkpoint.path)
    ours, theirs = _ctc_head(variables), _ctc_head(weights)
    if theirs and not ours:
        logging.info("the CTC head of %s is not used (model.ctc_weight: 0)", source)
    elif ours and not theirs and may_lack_ctc_head:
        logging.info("the CTC head starts untrained: %s has none", source)
    else:
        ours = theirs = set()
    restore(
        {name: v for name, v in variables.items() if name not in ours},
        {name: array for name, array in weights.items() if name not in theirs},
        source,
    )


def _ctc_head(names: Iterable[str]) -> set[str]:
    return {name for name in names if "/ctc_head/" in name}
