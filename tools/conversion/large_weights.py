"""ONNX graphs whose large weights are kept apart, because a protocol buffer holds at most 2 GB.

Such a graph has its large weights as inputs until it is written. The file then refers to a second
file beside it, which holds their values. Each value is copied once, while it is written.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
from onnx import helper, numpy_helper
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.python.grappler import tf_optimizer

MOST_BYTES = 1_900_000_000  # weights of a graph that holds all of them; the rest is its nodes
# Of more weights, tf2onnx gets the graph alone, as it copies graphs: 456 MB of weights took 10 GB.
APART_BYTES = 400_000_000
LEAST_VALUES = 1 << 16  # of a weight that is kept apart
_PAGE = 4096  # runtimes map the file into memory, for which values begin at a page
Weights = Mapping[str, tf.Variable]


def is_large(function: tf.types.experimental.ConcreteFunction) -> bool:
    """Returns whether the weights of a function must be kept apart in files."""
    return _num_bytes(function) > MOST_BYTES


def is_translated_apart(function: tf.types.experimental.ConcreteFunction) -> bool:
    """Returns whether the weights of a function are kept apart while it is translated."""
    return _num_bytes(function) > min(APART_BYTES, MOST_BYTES)


def _num_bytes(function: tf.types.experimental.ConcreteFunction) -> int:
    variables = {id(x): x for x in function.variables}.values()
    return sum(x.shape.num_elements() * x.dtype.size for x in variables)


def without_large_weights(
    function: tf.types.experimental.ConcreteFunction,
) -> tuple[tf.compat.v1.GraphDef, dict[str, tf.Variable]]:
    """Returns the graph of a function in which large matrices are placeholders.

    The other variables and captured tensors are constants. Calls of functions are replaced by their
    content.

    Args:
        function: function without loops and conditions.

    Returns:
        The graph, and the variable of each new placeholder by its name.

    Raises:
        ValueError: an operator other than a read uses a variable.
    """
    variables = {id(x.handle): x for x in function.variables}
    held: dict[str, tf.Variable | np.ndarray] = {}
    for captured, inside in function.graph.captures:
        held[inside.op.name] = variables.get(id(captured))
        if held[inside.op.name] is None:
            held[inside.op.name] = captured.numpy()
    graph = _inlined(function)
    types = {
        name: x.dtype.as_datatype_enum for name, x in held.items() if isinstance(x, tf.Variable)
    }
    weights = {}
    for node in graph.node:
        if node.op != "Placeholder" or node.name not in held:
            continue
        value = held[node.name]
        if isinstance(value, tf.Variable) and _is_large(value):
            weights[node.name] = value
            node.attr["dtype"].type = types[node.name]
            node.attr["shape"].shape.CopyFrom(value.shape.as_proto())
            node.attr.pop("_user_specified_name", None)
            continue
        array = value.numpy() if isinstance(value, tf.Variable) else value
        node.op = "Const"
        node.attr.clear()
        node.attr["dtype"].type = tf.as_dtype(array.dtype).as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
    _read_directly(graph, types)
    return graph, weights


def _is_large(variable: tf.Variable) -> bool:
    return variable.shape.rank == 2 and variable.shape.num_elements() >= LEAST_VALUES


def _inlined(function: tf.types.experimental.ConcreteFunction) -> tf.compat.v1.GraphDef:
    """Returns the graph of a function in which calls are replaced by the called functions."""
    described = tf.compat.v1.train.export_meta_graph(
        graph_def=function.graph.as_graph_def(), graph=function.graph
    )
    ends = described.collection_def["train_op"].node_list.value  # what the optimizer must keep
    ends.extend(tensor.name for tensor in (*function.inputs, *function.outputs))
    config = ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    config.graph_options.rewrite_options.optimizers.append("function")
    return tf_optimizer.OptimizeGraph(config, described)


def _read_directly(graph: tf.compat.v1.GraphDef, types: dict[str, int]) -> None:
    """Replaces reads of variables by the tensors that have taken the place of the variables.

    Args:
        graph: changed in place.
        types: type of each such tensor by name; those behind an identity are added.

    Raises:
        ValueError: an operator other than a read uses a variable.
    """
    readers = [(node, [x.split(":")[0] for x in node.input if x[0] != "^"]) for node in graph.node]
    left, before = readers, None
    while before != len(left):  # nodes are in no order
        before, pending = len(left), []
        for node, inputs in left:
            kind = types.get(inputs[0]) if inputs else None
            if kind is None or node.op not in ("Identity", "ReadVariableOp"):
                pending.append((node, inputs))
                continue
            if node.op == "Identity":
                types[node.name] = kind
            node.op = "Identity"
            node.attr.clear()
            node.attr["T"].type = kind
        left = pending
    wrong = sorted({node.op for node, inputs in left if types.keys() & set(inputs)})
    if wrong:
        raise ValueError(f"the operator {wrong[0]} uses a variable")


def embed(model: onnx.ModelProto, weights: Weights) -> None:
    """Moves large weights into their graph.

    Args:
        model: graph with the large weights as inputs, which become constants.
        weights: variable of each of these inputs by name.
    """
    _remove_inputs(model, weights)
    for name, variable in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(variable.numpy(), name))


def _remove_inputs(model: onnx.ModelProto, weights: Weights) -> None:
    inputs = [x for x in model.graph.input if x.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def write_graph(model: onnx.ModelProto, weights: Weights, path: Path) -> list[Path]:
    """Writes a graph, and the values of its large weights in a file beside it.

    Args:
        model: graph with the large weights as inputs; they become references to the second file.
        weights: variable of each of these inputs by name; empty for a graph without them.
        path: ONNX file to write; the other file is `PATH.data`.

    Returns:
        The written files.
    """
    files, beside = [path], path.with_name(f"{path.name}.data")
    if weights:
        _remove_inputs(model, weights)
        files.append(beside)
        with beside.open("wb") as file:
            for name, variable in weights.items():
                model.graph.initializer.append(_reference(name, variable, file))
    path.write_bytes(model.SerializeToString())
    return files


def _reference(name: str, variable: tf.Variable, file) -> onnx.TensorProto:
    """Writes the value of a variable at the next page, and returns the reference to it."""
    value = np.ascontiguousarray(variable.numpy())
    file.write(b"\0" * (-file.tell() % _PAGE))
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=value.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    place = {"location": Path(file.name).name, "offset": file.tell(), "length": value.nbytes}
    for key, entry in place.items():
        tensor.external_data.add(key=key, value=str(entry))
    file.write(value.data)
    return tensor
