"""Classifies images with an ONNX file."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import run
from tools.errors import UserError
from vision.flags import inference_options
from vision.infer import command_line, predict


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = command_line("vision.infer_onnx", example="photo.jpg --onnx_path=tiny.onnx")
    values, places = flags.parse(argv)
    if not values.onnx_path:
        raise UserError.expected("an --onnx_path", "none", "Give the path of an ONNX file")
    return predict(inference_options(values, places))


if __name__ == "__main__":
    run(main)
