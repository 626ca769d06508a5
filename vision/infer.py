"""Tells what is on an image, or on the images of a folder."""

import os
import sys
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import run
from vision.inference import command_line, predict


def main(argv: list[str]) -> int:
    """Runs the program."""
    return predict(*command_line("vision/infer.py").parse(argv))


def cli() -> NoReturn:
    """Runs the program as a command of the shell."""
    run(main)


if __name__ == "__main__":
    cli()
