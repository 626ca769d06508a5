"""Translates signatures of SavedModels to ONNX."""

import contextlib
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tf2onnx import tf_loader
from tf2onnx.convert import from_graph_def
from tf2onnx.graph import Node

from tools.conversion.large_weights import (
    Weights,
    embed,
    is_large,
    is_translated_apart,
    without_large_weights,
    write_graph,
)
from tools.conversion.protocol import Function, Run, TensorSpec
from tools.conversion.rewrites.cleaning import clean
from tools.conversion.rewrites.graph import WRAPPERS
from tools.errors import UserError

OPSET = 18  # the newest version of the ONNX operators that tf2onnx 1.17 writes
_CATCH = "TF2ONNX_CATCH_ERRORS"


@dataclass
class Source:
    """A signature to convert.

    Attributes:
        name: name of the signature.
        native_dir: directory of its SavedModel.
        functions: functions of all signatures of the SavedModel; of an ONNX file its graph.
        specs: inputs, with a size or a range for each dimension.
        small: whether a call has too little work for several threads.
        keep_in_float: layers that the model keeps in float when it is quantized.
        options: optional rewrites of the graph; see `tools.conversion.rewrites.cleaning.clean`.
        graphs: stored graphs and the numbers of their rewrites, by signature and options.
        keeps: whether to store the graph for another conversion.
        rewrites: number of rewritten places for each rewrite.
    """

    name: str
    native_dir: Path
    functions: Mapping[str, tf.types.experimental.ConcreteFunction | onnx.ModelProto]
    specs: tuple[TensorSpec, ...]
    small: bool = False
    keep_in_float: Collection[str] = ()
    options: Collection[str] = ()
    graphs: dict[tuple, tuple] = field(default_factory=dict)
    keeps: bool = False
    rewrites: dict[str, int] = field(default_factory=dict)

    def _graph(self) -> tuple[onnx.ModelProto, Weights]:
        """Returns the rewritten graph, which the caller may change, and its large weights."""
        function = self.functions[self.name]
        if isinstance(function, onnx.ModelProto):
            copy = onnx.ModelProto()
            copy.CopyFrom(function)
            return copy, {}
        key = self.name, *self.options
        found = self.graphs.pop(key, None)
        if found is None:
            model, weights = translated(function, self.name)
            found = model, weights, clean(model, self.options)
        model, weights, rewrites = found
        self.rewrites |= rewrites
        if not self.keeps:
            return model, weights
        self.graphs[key] = found
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy, weights

    @property
    def is_large(self) -> bool:
        """Whether the weights do not fit into the graph, so that `write` must be used."""
        function = self.functions[self.name]
        return not isinstance(function, onnx.ModelProto) and is_large(function)

    @property
    def onnx(self) -> onnx.ModelProto:
        """The rewritten ONNX graph, which the caller may change.

        It contains the weights. Therefore it is copied only if another conversion needs it. The
        graph of an ONNX file is not rewritten.

        Raises:
            UserError: the weights do not fit into the graph.
        """
        if self.is_large:
            raise UserError.expected(
                "OpenVINO, or ONNX Runtime in fp32, for weights of more than 1.9 GB",
                "another runtime or precision",
                "Give --backend=openvino",
            )
        return self._graph()[0]

    def write(self, path: Path, sizes: Mapping[str, Sequence] | None = None) -> list[Path]:
        """Writes the rewritten graph, and large weights in a file beside it.

        Args:
            path: ONNX file to write.
            sizes: shapes of inputs by name, in which integers are fixed sizes.

        Returns:
            The written files.
        """
        model, weights = self._graph()
        if sizes:
            set_sizes(model, sizes)
        return write_graph(model, weights, path)

    def run_with(self, function: Function) -> Run:
        """Returns a function that runs all signatures; see `tools.conversion.protocol.Source`."""

        def run(inputs: Mapping[str, np.ndarray], signature: str) -> dict[str, np.ndarray]:
            if signature == self.name:
                return function(inputs)
            tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
            return {k: v.numpy() for k, v in self.functions[signature](**tensors).items()}

        return run


def set_sizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence]) -> None:
    """Fixes the sizes of inputs that are integers in their shapes; ranges stay free dimensions."""
    for tensor in model.graph.input:
        for dimension, size in zip(
            tensor.type.tensor_type.shape.dim, shapes.get(tensor.name, ()), strict=False
        ):
            if isinstance(size, int):
                dimension.dim_value = size


def to_onnx(
    function: tf.types.experimental.ConcreteFunction, name: str, opset: int = OPSET
) -> onnx.ModelProto:
    """Translates a signature to ONNX. Inputs and outputs keep their names.

    Args:
        function: function from `load_saved_model`.
        name: name of the signature.
        opset: version of the ONNX operators.
    """
    with _errors_alone("tensorflow"):
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    ends = [x.name for x in frozen.inputs], [x.name for x in frozen.outputs]
    return _from_graph(frozen.graph.as_graph_def(), ends, function, name=name, opset=opset)


def translated(
    function: tf.types.experimental.ConcreteFunction, name: str, opset: int = OPSET
) -> tuple[onnx.ModelProto, Weights]:
    """Translates a signature to ONNX as `to_onnx` does, with weights of any size.

    Returns:
        The graph, and the variables of those inputs that are large weights; see
        `tools.conversion.large_weights.write_graph`.
    """
    if not is_translated_apart(function):
        return to_onnx(function, name, opset), {}
    try:
        graph, weights = without_large_weights(function)
    except ValueError:  # a loop uses a weight
        if is_large(function):
            raise
        return to_onnx(function, name, opset), {}
    captured = {id(inside) for _, inside in function.graph.captures}
    inputs = [x.name for x in function.inputs if id(x) not in captured]
    ends = [*inputs, *(f"{weight}:0" for weight in weights)], [x.name for x in function.outputs]
    model = _from_graph(graph, ends, function, name=name, opset=opset)
    if is_large(function):
        return model, weights
    embed(model, weights)
    return model, {}


def _from_graph(
    graph: tf.compat.v1.GraphDef,
    ends: tuple[list[str], list[str]],
    function: tf.types.experimental.ConcreteFunction,
    *,
    name: str,
    opset: int,
) -> onnx.ModelProto:
    """Translates a graph without variables; `ends` are the tensors of its inputs and outputs."""
    inputs, outputs = ends
    with _errors_alone("tf2onnx", "tensorflow"), _few_copies(), _no_tensors_for_inputs():
        model, _ = from_graph_def(
            graph, name=name, input_names=inputs, output_names=outputs, opset=opset
        )
    names = {tensor: tensor.split(":")[0] for tensor in inputs}
    described = sorted(function.structured_outputs)
    for tensor, output in zip(model.graph.output, described, strict=True):
        names[tensor.name] = output
    _rename(model, names)
    for node in model.graph.node:
        node.name = WRAPPERS.sub("", node.name)
    return model


@contextlib.contextmanager
def _errors_alone(*names: str) -> Iterator[None]:
    """Hides all messages of loggers except errors."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _few_copies():
    """Prevents tf2onnx from copying all constants in each of its 36 passes over a graph.

    tf2onnx 1.17 copies the graph before a pass, in case the pass fails, and writes all nodes again
    after it. Protobuf does not free the old nodes: 330 MB of weights need 13 GB. To be removed when
    `test_a_conversion_copies_constants_a_few_times` passes without it.
    """
    update, catch = Node.update_proto, os.environ.get(_CATCH)

    def update_others(self, *arguments):
        if not self.is_const():  # tf2onnx reads constants from attributes, not from nodes
            update(self, *arguments)

    Node.update_proto = update_others
    os.environ[_CATCH] = "FALSE"
    try:
        yield
    finally:
        Node.update_proto = update
        del os.environ[_CATCH]
        if catch is not None:
            os.environ[_CATCH] = catch


@contextlib.contextmanager
def _no_tensors_for_inputs():
    """Hides the shapes of inputs from the graph optimizer of TensorFlow, which tf2onnx calls.

    TensorFlow 2.16 makes a tensor for each input of known shape and keeps the memory afterwards.
    Weights that are kept apart are such inputs: 2.4 GB of weights took 2.6 GB. To be removed when
    `test_weights_that_are_kept_apart_take_no_memory_in_the_optimizer` passes without it.
    """
    optimize = tf_loader.tf_optimize_grappler

    def without_shapes(inputs, outputs, graph):
        shapes = {}
        for node in graph.node:  # in place, because a copy has all constants; nobody reads it again
            if node.op == "Placeholder":
                shapes[node.name] = tf.TensorShape(node.attr["shape"].shape).as_proto()
                node.attr["shape"].shape.CopyFrom(tf.TensorShape(None).as_proto())
        optimized = optimize(inputs, outputs, graph)
        for node in optimized.node:
            if node.name in shapes:
                node.attr["shape"].shape.CopyFrom(shapes[node.name])
        return optimized

    tf_loader.tf_optimize_grappler = without_shapes
    try:
        yield
    finally:
        tf_loader.tf_optimize_grappler = optimize


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
