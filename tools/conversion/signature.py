"""Signatures of a SavedModel as ONNX graphs."""

import logging
from collections.abc import Mapping

import onnx
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tf2onnx.convert import from_graph_def

_OPSET = 18


def to_onnx(function: tf.types.experimental.ConcreteFunction, name: str) -> onnx.ModelProto:
    """Translates a signature; inputs and outputs keep the names that they have in the SavedModel.

    Args:
        function: of `saved_model.load_saved_model`.
        name: of the signature.
    """
    for chatty in ("tf2onnx", "tensorflow"):  # progress, and what TensorFlow deprecates in tf2onnx
        logging.getLogger(chatty).setLevel(logging.ERROR)
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    inputs = [tensor.name for tensor in frozen.inputs]
    model, _ = from_graph_def(
        frozen.graph.as_graph_def(),
        name=name,
        input_names=inputs,
        output_names=[tensor.name for tensor in frozen.outputs],
        opset=_OPSET,
    )
    names = {tensor: tensor.split(":")[0] for tensor in inputs}
    outputs = sorted(function.structured_outputs)
    for tensor, output in zip(model.graph.output, outputs, strict=True):
        names[tensor.name] = output
    _rename(model, names)
    return model


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Renames tensors of the outermost graph."""
    for node in model.graph.node:
        _replace(node.input, names)
        _replace(node.output, names)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.name = names.get(tensor.name, tensor.name)


def _replace(listed, names: Mapping[str, str]) -> None:
    renamed = [names.get(name, name) for name in listed]
    del listed[:]
    listed.extend(renamed)
