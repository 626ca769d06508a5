"""Fine-tunes wav2vec 2.0: `horovodrun -np N python wav2vec2/train.py --pretrained FOLDER ...`."""

import os
import sys
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import run
from tools.recognition.training import TrainingProgram
from wav2vec2.config import ARCHITECTURE_FIELDS, load_config
from wav2vec2.task import Wav2Vec2Task

PROGRAM = TrainingProgram(
    "wav2vec2.train",
    "Fine-tunes wav2vec 2.0 with CTC on a corpus in LibriSpeech layout, in one process or with "
    "horovodrun.",
    "wav2vec2/base_100h.yml",
    "Hugging Face folder, run or checkpoint whose weights, sizes and vocabulary training starts "
    "with.",
    load_config,
    Wav2Vec2Task,
    example="--pretrained=wav2vec2-base/ --data_dir=LibriSpeech --output_dir=runs/w2v",
    # A run can be resumed only if these keys, the training set and the vocabulary are unchanged.
    # Other keys, such as dropout and mask rates, may change.
    defines_a_run=(
        "preprocessing",
        "model.mask_padding",
        *(f"model.{name}" for name in ARCHITECTURE_FIELDS),
    ),
)
main = PROGRAM.main


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
