"""An ONNX file behind the protocol of a runner, ours or another exporter's."""

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
    """ONNX Runtime on a file; see `tools.inference.runner.Runner`.

    A file that is not of `vision.export` tells no more than the shape of its input.

    Args:
        path: of the file.
        config: of a file that does not tell.

    Raises:
        UserError: it cannot be read, or does not map images to one row of scores each.
    """

    mode, backend, precision = "jit", "onnxruntime", "fp32"

    def __init__(self, path: str | Path, config: VisionConfig):
        self.files = (Path(path),)
        if not self.files[0].is_file():
            raise UserError.expected("an --onnx_path", f"{path}: no such file", "Correct it")
        try:
            session = onnxruntime.new_session(str(path), {"small": False})
        except Exception as error:  # ONNX Runtime has no base class of its own for what it raises
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
                    "a classifier, which answers with [B, V]", f"{path}: {found}", "Name another"
                )

    def run(
        self, inputs: Mapping[str, np.ndarray], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Runs a batch and returns the outputs by name."""
        specs = self.signatures[signature]
        check_inputs(inputs, specs, pads=True)
        padded = pad_to(inputs, shapes_of(specs))
        size = len(next(iter(inputs.values())))
        return {name: array[:size] for name, array in self._function(padded).items()}

    def expect(self, name: str, lengths: Sequence[int]) -> list[int]:
        """Does nothing: images have one size."""
        return []


def _check_weights(path: Path) -> None:
    """Refuses NaN among the constants; an infinity may be meant, as in a mask."""
    constants = onnx.load(path).graph.initializer
    arrays = {x.name: onnx.numpy_helper.to_array(x, str(path.parent)) for x in constants}
    bad = {name: x for name, x in arrays.items() if x.dtype.kind == "f" and np.isnan(x).any()}
    check_finite(bad, str(path))


def _say_preprocessing(preprocessing: Mapping, path: str | Path) -> None:
    values = ", ".join(f"{name} {show(value)}" for name, value in preprocessing.items())
    print(
        f"{path} does not tell how its images are prepared. The values of the config are used: "
        f"{values}",
        file=sys.stderr,
    )


def _description(inputs: list[TensorSpec], config: VisionConfig, path: str | Path) -> dict:
    """What the shape of the input tells."""
    shape = inputs[0].shape
    places = {1: "NCHW", 3: "NHWC"}
    layouts = [name for axis, name in places.items() if len(shape) == 4 and shape[axis] == CHANNELS]
    if len(inputs) != 1 or len(layouts) != 1:
        found = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs)
        raise UserError.expected(
            f"a model of one input with {CHANNELS} channels", f"{path}: {found}", "Export it again"
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
