"""Runs ONNX files, exported by this project or by others, with the `Runner` protocol."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx

from tools.config.values import show
from tools.conversion.backends import onnxruntime
from tools.conversion.dim_range import check_inputs, pad_to, shapes_of
from tools.conversion.protocol import TensorSpec
from tools.errors import UserError
from tools.weights.assignment import check_finite
from vision.config import VisionConfig
from vision.model import CHANNELS
from vision.signatures import METADATA_KEY


class OnnxRunner:
    """Runs an ONNX file in ONNX Runtime; see `tools.inference.runner.Runner`.

    Files of `vision.export` contain a description of the model. For other files only the shape of
    the input is known.

    Args:
        path: path of the ONNX file.
        config: supplies the preprocessing if the file has no description.

    Raises:
        UserError: the file cannot be read, or the model does not map images to scores `[B, V]`.
    """

    mode, backend, precision = "jit", "onnxruntime", "fp32"

    def __init__(self, path: str | Path, config: VisionConfig):
        self.files = (Path(path),)
        if not self.files[0].is_file():
            raise UserError.expected(
                "an --onnx_path", f"{path}: no such file", "Correct --onnx_path"
            )
        try:
            session = onnxruntime.new_session(str(path), {"small": False})
        except Exception as error:  # the exceptions of ONNX Runtime have no common base class
            reason = " ".join(str(error).split())[:200]
            raise UserError.expected(
                f"an ONNX model in {path}", reason, "Export it again"
            ) from error
        _check_weights(self.files[0])
        self._function = onnxruntime.as_function(session)
        inputs = [
            TensorSpec(x.name, "float32", tuple(n if isinstance(n, int) else None for n in x.shape))
            for x in session.get_inputs()
        ]
        metadata = session.get_modelmeta().custom_metadata_map
        self.signatures = {"serving_default": tuple(inputs)}
        if METADATA_KEY in metadata:
            self.pipeline = json.loads(metadata[METADATA_KEY])
        else:
            self.pipeline = _description(inputs, config, path)
            _say_preprocessing(self.pipeline["preprocessing"], path)
            ranks = {x.name: len(x.shape) for x in session.get_outputs()}
            if set(ranks.values()) != {2}:
                found = ", ".join(f"{name} of {rank} dimensions" for name, rank in ranks.items())
                raise UserError.expected(
                    "a classifier with an output [B, V]", f"{path}: {found}", "Select another file"
                )

    def run(
        self, inputs: Mapping[str, np.ndarray], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Runs a batch.

        Args:
            inputs: arrays by input name.
            signature: must be "serving_default", the only signature of an ONNX file.

        Returns:
            The outputs by name.
        """
        specs = self.signatures[signature]
        check_inputs(inputs, specs, pads=True)
        padded = pad_to(inputs, shapes_of(specs))
        size = len(next(iter(inputs.values())))
        return {name: array[:size] for name, array in self._function(padded).items()}

    def expect(self, name: str, lengths: Sequence[int]) -> list[int]:
        """Does nothing: images have one size."""
        return []


def _check_weights(path: Path) -> None:
    """Raises UserError if a weight is NaN. Infinities are allowed, since masks contain them."""
    constants = onnx.load(path).graph.initializer
    arrays = {x.name: onnx.numpy_helper.to_array(x, str(path.parent)) for x in constants}
    bad = {name: x for name, x in arrays.items() if x.dtype.kind == "f" and np.isnan(x).any()}
    check_finite(bad, str(path))


def _say_preprocessing(preprocessing: Mapping, path: str | Path) -> None:
    values = ", ".join(f"{name} {show(value)}" for name, value in preprocessing.items())
    print(
        f"{path} does not describe its preprocessing. Using that of the config: {values}",
        file=sys.stderr,
    )


def _description(inputs: list[TensorSpec], config: VisionConfig, path: str | Path) -> dict:
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
