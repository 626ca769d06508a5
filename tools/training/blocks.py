"""How the repeated blocks of a model run in training."""

from collections.abc import Sequence

import keras

from tools.training.config import TrainingConfig
from tools.training.rematerialize import rematerialize
from tools.training.shared_trace import share_traces


def prepare_blocks(blocks: Sequence[keras.Layer], config: TrainingConfig) -> None:
    """Changes the blocks of a built model by `training.rematerialize`.

    Args:
        blocks: see `tools.training.task.Task.blocks`.
        config: section `training` of the config. Without rematerialization, equal blocks share
            their trace.
    """
    change = rematerialize if config.rematerialize == "blocks" else share_traces
    change(blocks)
