"""Translates signatures of SavedModels to ONNX."""

import contextlib
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tf2onnx.convert import from_graph_def
from tf2onnx.graph import Node

from tools.conversion.protocol import Function, Run, TensorSpec
from tools.conversion.rewrites.cleaning import clean
from tools.conversion.rewrites.graph import WRAPPERS

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

    @property
    def onnx(self) -> onnx.ModelProto:
        """The rewritten ONNX graph, which the caller may change.

        It contains the weights. Therefore it is copied only if another conversion needs it. The
        graph of an ONNX file is not rewritten.
        """
        function = self.functions[self.name]
        if isinstance(function, onnx.ModelProto):
            copy = onnx.ModelProto()
            copy.CopyFrom(function)
            return copy
        key = self.name, *self.options
        found = self.graphs.pop(key, None)
        if found is None:
            model = to_onnx(function, self.name)
            found = model, clean(model, self.options)
        model, rewrites = found
        self.rewrites |= rewrites
        if not self.keeps:
            return model
        self.graphs[key] = found
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy

    def run_with(self, function: Function) -> Run:
        """Returns a function that runs all signatures; see `tools.conversion.protocol.Source`."""

        def run(inputs: Mapping[str, np.ndarray], signature: str) -> dict[str, np.ndarray]:
            if signature == self.name:
                return function(inputs)
            tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
            return {k: v.numpy() for k, v in self.functions[signature](**tensors).items()}

        return run


def to_onnx(
    function: tf.types.experimental.ConcreteFunction, name: str, opset: int = OPSET
) -> onnx.ModelProto:
    """Translates a signature to ONNX. Inputs and outputs keep their names.

    Args:
        function: function from `load_saved_model`.
        name: name of the signature.
        opset: version of the ONNX operators.
    """
    with _errors_alone("tf2onnx", "tensorflow"), _few_copies():
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
        inputs = [tensor.name for tensor in frozen.inputs]
        model, _ = from_graph_def(
            frozen.graph.as_graph_def(),
            name=name,
            input_names=inputs,
            output_names=[tensor.name for tensor in frozen.outputs],
            opset=opset,
        )
    names = {tensor: tensor.split(":")[0] for tensor in inputs}
    outputs = sorted(function.structured_outputs)
    for tensor, output in zip(model.graph.output, outputs, strict=True):
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
