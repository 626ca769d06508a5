"""Measures the accuracy of an ONNX file on an ImageFolder."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import run
from tools.errors import UserError
from vision.eval import command_line, evaluate
from vision.flags import evaluation_options


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    usage, example = "--onnx_path=F [FLAGS] DATASET", "ImageNet/val --onnx_path=tiny.onnx"
    values, places = command_line("vision.eval_onnx", usage, example=example).parse(argv)
    if not values.onnx_path:
        raise UserError.expected("an --onnx_path", "none", "Give the path of an ONNX file")
    return evaluate(evaluation_options(values, places))


if __name__ == "__main__":
    run(main)
