"""Runs ONNX files as classifiers of images."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from tools.config.values import show
from tools.conversion.onnx_file import SIGNATURE
from tools.conversion.protocol import FOREIGN, TensorSpec
from tools.errors import UserError
from tools.inference.onnx_runner import OnnxRunner
from vision.config import VisionConfig
from vision.model import CHANNELS


class ImageOnnxRunner(OnnxRunner):
    """Runs an ONNX file that maps images to scores `[B, V]`.

    Files of `vision.export` contain a description of the model. For other files only the shape of
    the input is known.

    Args:
        path: path of the ONNX file.
        config: supplies the preprocessing if the file has no description.

    Raises:
        UserError: the file cannot be read, or the model does not map images to scores.
    """

    def __init__(self, path: str | Path, config: VisionConfig):
        super().__init__(path)
        family = self.pipeline["family"]
        if family == FOREIGN:
            self.pipeline = _description(self.signatures[SIGNATURE], config, path)
            _say_preprocessing(self.pipeline["preprocessing"], path)
            if set(self.output_ranks.values()) != {2}:
                ranks = self.output_ranks.items()
                found = ", ".join(f"{name} of {rank} dimensions" for name, rank in ranks)
                raise UserError.expected(
                    "a classifier with an output [B, V]", f"{path}: {found}", "Select another file"
                )
        elif family != "vision":
            raise UserError.expected(
                "an --onnx_path of a vision model", f"{path} of {family}", "Select another file"
            )


def _say_preprocessing(preprocessing: Mapping, path: str | Path) -> None:
    values = ", ".join(f"{name} {show(value)}" for name, value in preprocessing.items())
    print(
        f"{path} does not describe its preprocessing. Using that of the config: {values}",
        file=sys.stderr,
    )


def _description(inputs: tuple[TensorSpec, ...], config: VisionConfig, path: str | Path) -> dict:
    """Returns the description of a model that has none, from the shape of its input."""
    shape = inputs[0].shape
    places = {1: "NCHW", 3: "NHWC"}
    layouts = [name for axis, name in places.items() if len(shape) == 4 and shape[axis] == CHANNELS]
    if len(inputs) != 1 or len(layouts) != 1:
        found = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs)
        raise UserError.expected(
            f"a model with one input of {CHANNELS} channels", f"{path}: {found}", "Export it again"
        )
    preprocessing = asdict(config.preprocessing)
    if isinstance(shape[2], int):
        preprocessing["image_size"] = shape[2]
    return {
        "family": "vision",
        "layout": layouts[0],
        "input": inputs[0].name,
        "preprocessing": preprocessing,
        "num_classes": config.model.num_classes,
        "class_names": None,
        "class_folders": None,
    }
