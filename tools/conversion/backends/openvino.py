"""OpenVINO on CPUs: the fastest runtime for the large parts of a model."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import openvino

from tools.conversion.backends import Function
from tools.conversion.saved_model import TensorSpec

if TYPE_CHECKING:  # running a converted model needs none of it
    import onnx

NAME = "openvino"
PRECISIONS = ("fp32", "fp16", "bf16")
# One LSTM cell and one joint network of the digits model, 16 rows, one thread: 165 and 57 us here,
# 108 and 33 us in ONNX Runtime 1.31.
SMALL = "onnxruntime"


def versions() -> dict[str, str]:
    """Versions that an artifact depends on, by package."""
    return {"openvino": importlib.metadata.version("openvino")}


def save(
    model: "onnx.ModelProto", specs: Sequence[TensorSpec], precision: str, stem: Path
) -> list[str]:
    """Writes `stem.xml` and `stem.bin`; see `Backend.save`.

    `fp16` keeps the weights in half precision and computes in what the device is best at; on CPUs
    that is float32, or `bf16` where that is asked for and there is hardware for it.
    """
    network = openvino.Core().read_model(model.SerializeToString(), b"")
    network.reshape({spec.name: _partial_shape(spec) for spec in specs})
    hint = "bf16" if precision == "bf16" else "f32"
    network.set_rt_info(hint, ["runtime_options", "INFERENCE_PRECISION_HINT"])
    path = stem.with_suffix(".xml")
    openvino.save_model(network, path, compress_to_fp16=precision == "fp16")
    return [path.name, path.with_suffix(".bin").name]


def open(path: Path, small: bool) -> Function:
    """Loads `stem.xml`; see `Backend.open`."""
    core = openvino.Core()
    network = core.read_model(path)
    hint = network.get_rt_info(["runtime_options", "INFERENCE_PRECISION_HINT"]).astype(str)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    if small:
        options["INFERENCE_NUM_THREADS"] = 1
    request = core.compile_model(network, "CPU", options).create_infer_request()

    def run(inputs):
        results = request.infer(dict(inputs), share_inputs=True)
        return {output.get_any_name(): array for output, array in results.items()}

    return run


def _partial_shape(spec: TensorSpec) -> openvino.PartialShape:
    sizes = (x if isinstance(x, tuple) else (x, x) for x in spec.shape)
    return openvino.PartialShape([openvino.Dimension(low, high) for low, high in sizes])
