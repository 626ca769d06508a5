"""Scores a checkpoint, SavedModel or ONNX file on an ImageFolder."""

import os
import sys
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import run
from vision.evaluation import command_line, evaluate


def main(argv: list[str]) -> int:
    """Runs the program."""
    return evaluate(*command_line("vision/eval.py", "[FLAGS] [DATASET]").parse(argv))


def cli() -> NoReturn:
    """Runs the program as a command of the shell."""
    run(main)


if __name__ == "__main__":
    cli()
