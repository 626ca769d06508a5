"""Fine-tunes wav2vec 2.0: `horovodrun -np N python wav2vec2/train.py --pretrained FOLDER ...`."""

import os
import sys
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import run
from tools.recognition.training import TrainingProgram
from wav2vec2.config import ARCHITECTURE_FIELDS, load_config
from wav2vec2.task import Wav2Vec2Task

PROGRAM = TrainingProgram(
    "wav2vec2.train",
    "Fine-tunes wav2vec 2.0 with CTC on a LibriSpeech-layout corpus, in one process or under "
    "horovodrun.",
    "wav2vec2/base_100h.yml",
    "Hugging Face folder, run or checkpoint to start from (weights, sizes, vocabulary).",
    load_config,
    Wav2Vec2Task,
    example="--pretrained=wav2vec2-base/ --data_dir=LibriSpeech --output_dir=runs/w2v",
    # Beside the training set and the vocabulary; rates of dropout and of masks may differ.
    defines_a_run=(
        "preprocessing",
        "model.mask_padding",
        *(f"model.{name}" for name in ARCHITECTURE_FIELDS),
    ),
)
main = PROGRAM.main


def cli() -> NoReturn:
    """Runs the program as a command of the shell."""
    run(main)


if __name__ == "__main__":
    cli()
