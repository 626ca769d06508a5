"""Trains a speech Conformer: `horovodrun -np N python conformer/train.py --data_dir ...`."""

import os
import sys
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from conformer.config import ConformerConfig, load_config
from conformer.published import open_source
from conformer.task import ConformerTask
from conformer.tensorflow_asr import WEIGHTS_SUFFIXES
from tools.config.command_line import run
from tools.recognition.training import TrainingProgram
from tools.training.checkpoint import Checkpoint
from tools.training.distributed import Processes

# A run can be resumed only if these keys, the training set and the vocabulary are unchanged.
# Other keys, such as dropout rates, may change. The weights of the checkpoint are compared too: a
# CTC head can neither appear nor disappear.
_SIZES = "num_layers hidden_dim num_heads kernel_size feedforward_multiplier subsampling_filters"
_OPTIONS = (
    "feedforward_dim subsampling_factor subsampling scale_input attention_bias feedforward_bias "
    "convolution_bias convolution_norm convolution_norm_epsilon transducer prediction "
    "prediction_layers prediction_norm joint_activation joint_prediction_bias durations"
)
DEFINES_A_RUN = (
    "features",
    "tokenizer.kind",
    "tokenizer.vocabulary_size",
    *(f"model.{name}" for name in f"{_SIZES} prediction_dim joint_dim {_OPTIONS}".split()),
)


def make_task(
    config: ConformerConfig,
    processes: Processes,
    pretrained: str,
    resumed: Checkpoint | None,
    *,
    needs_evaluation: bool,
) -> ConformerTask:
    """Opens the pretrained weights, if a source is given, and returns the training task."""
    is_keras2 = pretrained.lower().endswith(WEIGHTS_SUFFIXES)
    source = None
    if pretrained and not is_keras2:
        source = open_source(pretrained)
    return ConformerTask(
        config,
        processes,
        source,
        resumed,
        keras2_weights=pretrained if is_keras2 else "",
        needs_evaluation=needs_evaluation,
    )


PROGRAM = TrainingProgram(
    "conformer.train",
    "Trains a speech Conformer transducer on a corpus in LibriSpeech layout, in one process or "
    "with horovodrun.",
    "conformer/conformer_s_100h.yml",
    "Run or checkpoint directory, or published model (Hugging Face folder, .nemo archive or "
    "hf:owner/name) whose weights and vocabulary training starts with; or a file .h5 of "
    "TensorFlowASR with weights.",
    load_config,
    make_task,
    defines_a_run=DEFINES_A_RUN,
)
main = PROGRAM.main


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
