"""ONNX Runtime: CPUs, and GPUs where a build with their providers is installed."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

from tools.conversion.backends import Function
from tools.conversion.saved_model import TensorSpec

if TYPE_CHECKING:  # running a converted model needs none of it
    import onnx

NAME = "onnxruntime"
PRECISIONS = ("fp32",)
SMALL = "onnxruntime"
_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


def versions() -> dict[str, str]:
    """Versions that an artifact depends on, by package."""
    return {"onnxruntime": importlib.metadata.version("onnxruntime")}


def save(
    model: "onnx.ModelProto", specs: Sequence[TensorSpec], precision: str, stem: Path
) -> list[str]:
    """Writes `stem.onnx`; see `Backend.save`. Ranges are free dimensions to ONNX."""
    shapes = {spec.name: spec.shape for spec in specs}
    for tensor in model.graph.input:
        for dimension, size in zip(
            tensor.type.tensor_type.shape.dim, shapes[tensor.name], strict=True
        ):
            if isinstance(size, int):
                dimension.dim_value = size
    path = stem.with_suffix(".onnx")
    path.write_bytes(model.SerializeToString())
    return [path.name]


def open(path: Path, small: bool) -> Function:
    """Loads `stem.onnx`; see `Backend.open`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if small:
        options.intra_op_num_threads = 1
    available = onnxruntime.get_available_providers()
    providers = [name for name in _PROVIDERS if name in available]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    names = [output.name for output in session.get_outputs()]

    def run(inputs):
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run
