"""Trains a speech Conformer: `horovodrun -np N python conformer/train.py --data_dir ...`."""

import os
import sys
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from conformer.config import ConformerConfig, load_config
from conformer.task import ConformerTask
from tools.config.command_line import run
from tools.recognition.training import TrainingProgram
from tools.training.checkpoint import Checkpoint, open_checkpoint
from tools.training.distributed import Processes

# Beside the training set and the vocabulary; weights of losses and rates of dropout may differ.
_SIZES = "num_layers hidden_dim num_heads kernel_size feedforward_multiplier subsampling_filters"
DEFINES_A_RUN = (
    "features",
    "tokenizer.kind",
    "tokenizer.vocabulary_size",
    *(f"model.{name}" for name in f"{_SIZES} prediction_dim joint_dim".split()),
)


def make_task(
    config: ConformerConfig,
    processes: Processes,
    pretrained: str,
    resumed: Checkpoint | None,
    *,
    needs_evaluation: bool,
) -> ConformerTask:
    """Opens the checkpoint to start from, and makes the task."""
    checkpoint = open_checkpoint(pretrained) if pretrained else None
    return ConformerTask(config, processes, checkpoint, resumed, needs_evaluation=needs_evaluation)


PROGRAM = TrainingProgram(
    "conformer.train",
    "Trains a speech Conformer transducer on a LibriSpeech-layout corpus, in one process or under "
    "horovodrun.",
    "conformer/conformer_s_100h.yml",
    "Run or checkpoint directory to start from (weights, vocabulary).",
    load_config,
    make_task,
    defines_a_run=DEFINES_A_RUN,
)
main = PROGRAM.main


def cli() -> NoReturn:
    """Runs the program as a command of the shell."""
    run(main)


if __name__ == "__main__":
    cli()
