"""What stands in the artifacts of quantized models, read with the runtimes' own readers."""

from pathlib import Path

import onnx
import openvino
from onnx import numpy_helper

BACKENDS = ("openvino", "onnxruntime")


def network_of(directory: Path, name: str) -> openvino.Model:
    """Reads a signature that was converted for OpenVINO."""
    return openvino.Core().read_model(directory / f"{name}.xml")


def graph_of(directory: Path, name: str) -> onnx.GraphProto:
    """Reads a signature that was converted for ONNX Runtime."""
    return onnx.load(directory / f"{name}.onnx").graph


def constants(graph: onnx.GraphProto) -> dict:
    """The constant tensors of a graph by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def activations(backend: str, directory: Path, name: str) -> dict[str, tuple[float, int]]:
    """Of every quantized activation, by layer: range of 8 bits and the number that zero becomes."""
    found = {}
    if backend == "openvino":
        for node in network_of(directory, name).get_ops():
            if node.get_type_name() == "FakeQuantize":
                low, high = (node.input_value(i).get_node().data.item() for i in (1, 2))
                width = high - low
                found[node.get_friendly_name()] = width, round(-low / width * 255)
        return found
    graph = graph_of(directory, name)
    values = constants(graph)
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in values:
            scale, zero = (values[name].item() for name in node.input[1:3])
            found[node.name] = 255 * scale, zero
    return found


def weight_scales(backend: str, directory: Path, name: str) -> list[tuple[int, int]]:
    """Of every matrix of 8 bits, its size and the number of its scales."""
    found = []
    if backend == "openvino":
        for node in network_of(directory, name).get_ops():
            if node.get_type_name() == "Constant" and node.get_element_type().to_string() == "i8":
                (convert_input,) = node.output(0).get_target_inputs()
                (product,) = convert_input.get_node().output(0).get_target_inputs()
                scale = product.get_node().input_value(1).get_node()
                found.append((node.data.size, scale.data.size))
        return found
    graph = graph_of(directory, name)
    values = constants(graph)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            found.append((values[node.input[0]].size, values[node.input[1]].size))
    return found
