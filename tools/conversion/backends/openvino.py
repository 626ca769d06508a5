"""OpenVINO on CPUs: the fastest runtime for the large parts of a model."""

import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino
from openvino import opset13 as opset
from openvino.passes import ConstantFolding, Manager

from tools.conversion.backends import Function, Saved
from tools.conversion.saved_model import TensorSpec

if TYPE_CHECKING:  # running a converted model needs none of it
    from tools.conversion.quantization import Examples
    from tools.conversion.request import ConversionRequest
    from tools.conversion.signature import Source

NAME = "openvino"
NOT_APPLICABLE = {"minimum_segment_size": "the CPU takes the whole graph"}
# One LSTM cell and one joint network of the digits model, 16 rows, one thread: 165 and 57 us here,
# 108 and 33 us in ONNX Runtime 1.31.
SMALL = "onnxruntime"
STEPS = False
_LARGE = 1024  # values; a smaller constant is not worth a conversion
_HINT = ["runtime_options", "INFERENCE_PRECISION_HINT"]


def versions() -> dict[str, str]:
    """Versions that an artifact depends on, by package."""
    return {"openvino": importlib.metadata.version("openvino")}


def precisions() -> tuple[str, ...]:
    """What this machine can compute in; see `Backend.precisions`."""
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "fp16", *(["bf16"] if "BF16" in capable else []), "int8_fp32", "int8_fp16")


def save(
    source: "Source", request: "ConversionRequest", folder: Path, examples: "Examples | None"
) -> Saved:
    """Writes an IR; see `Backend.save`.

    `fp16` keeps the weights in half precision and computes in what the device is best at; on CPUs
    that is float32, or `bf16` where that is asked for and there is hardware for it.
    """
    network = openvino.Core().read_model(source.onnx.SerializeToString(), b"")
    _fold(network)  # so that weights are found behind what is done to constants
    if request.quantized:
        network = _quantize(network, source, request, examples)
    network.reshape({spec.name: _partial_shape(spec) for spec in source.specs})
    network.set_rt_info("bf16" if request.precision == "bf16" else "f32", _HINT)
    _shorten(network)
    half = request.float_precision == "fp16"
    if half and request.quantized:
        _store_in_half(network)
    path = folder / f"{source.name}.xml"
    openvino.save_model(network, path, compress_to_fp16=half)
    path.write_text(re.sub(r">\s+<", "><", path.read_text()))
    return Saved([path.name, path.with_suffix(".bin").name])


def _fold(network: openvino.Model) -> None:
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(network)


def _store_in_half(network: openvino.Model) -> None:
    """What `compress_to_fp16` does to other models; it leaves quantized ones as they are."""
    for node in network.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        value = node.data
        if value.size < _LARGE or np.abs(value).max() > np.finfo(np.float16).max:
            continue
        targets = node.output(0).get_target_inputs()
        half = opset.convert(opset.constant(value.astype(np.float16)), "f32")
        for target in targets:
            target.replace_source_output(half.output(0))


def _shorten(network: openvino.Model) -> None:
    """Leaves names to layers and to the ends of the graph."""
    ends = {*network.get_parameters(), *network.get_results()}
    for number, node in enumerate(network.get_ops()):
        if node.get_type_name() == "Constant":
            node.set_friendly_name(f"constant_{number}")
        for output in () if node in ends or _is_output(node) else node.outputs():
            output.get_tensor().set_names(set())


def _quantize(network, source, request, examples):
    from tools.conversion.quantization import ignored_nodes, quantize

    names = [node.get_friendly_name() for node in network.get_ops()]
    layers = [*source.keep_in_float, *request.quantization.keep_in_float]
    ignored = ignored_nodes(names, layers)

    def accuracy(candidate: openvino.CompiledModel, numbers):
        return examples.accuracy(source.run_with(_function(candidate)), numbers)

    return quantize(network, request.quantization, examples.batches, ignored, accuracy)


def open(path: Path, described: Mapping) -> Function:
    """Loads an IR; see `Backend.open`."""
    return _open(path, described["small"])


def layers(path: Path) -> list[str]:
    """Lists the layers of an IR; see `Backend.layers`."""
    nodes = openvino.Core().read_model(path).get_ordered_ops()
    return [node.get_friendly_name() for node in nodes if _is_layer(node)]


def probe(path: Path, described: Mapping, layers: list[str]) -> Function:
    """Loads an IR with inner tensors as further outputs; see `Backend.probe`."""
    return _open(path, described["small"], layers)


def _open(path, small, layers=None):
    core = openvino.Core()
    network = core.read_model(path)
    options = {"PERFORMANCE_HINT": "LATENCY"}
    options["INFERENCE_PRECISION_HINT"] = network.get_rt_info(_HINT).astype(str)
    if small:
        options["INFERENCE_NUM_THREADS"] = 1
    if layers is not None:
        wanted = set(layers)
        for node in network.get_ordered_ops():
            name = node.get_friendly_name()
            if name in wanted and _is_layer(node):
                network.add_outputs((name, 0))[0].get_tensor().set_names({name})
    return _function(core.compile_model(network, "CPU", options))


def _is_layer(node) -> bool:
    inner = node.get_type_name() not in ("Constant", "Parameter", "Result")
    return inner and node.get_output_size() == 1 and not _is_output(node)


def _is_output(node) -> bool:
    targets = (target for output in node.outputs() for target in output.get_target_inputs())
    return any(target.get_node().get_type_name() == "Result" for target in targets)


def _function(compiled: openvino.CompiledModel) -> Function:
    request = compiled.create_infer_request()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = request.infer(dict(inputs), share_inputs=True)
        return {output.get_any_name(): array for output, array in results.items()}

    return run


def _partial_shape(spec: TensorSpec) -> openvino.PartialShape:
    sizes = (x if isinstance(x, tuple) else (x, x) for x in spec.shape)
    return openvino.PartialShape([openvino.Dimension(low, high) for low, high in sizes])
