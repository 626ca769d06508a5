"""Scores a checkpoint, SavedModel or ONNX file on an ImageFolder."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import run
from vision.evaluation import command_line, evaluate


def main(argv: list[str]) -> int:
    """Runs the program."""
    return evaluate(*command_line("vision/eval.py", "[FLAGS] [DATASET]").parse(argv))


if __name__ == "__main__":
    run(main)
