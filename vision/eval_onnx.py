"""Scores an ONNX file on an ImageFolder."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import run
from tools.errors import UserError
from vision.eval import command_line, evaluate


def main(argv: list[str]) -> int:
    """Runs the program."""
    values, datasets = command_line("vision/eval_onnx.py", "--onnx_path=F [FLAGS] DATASET").parse(
        argv
    )
    if not values.onnx_path:
        raise UserError.expected("an --onnx_path", "none", "Name an ONNX file")
    return evaluate(values, datasets)


if __name__ == "__main__":
    run(main)
