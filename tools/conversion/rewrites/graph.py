"""Finds patterns in ONNX graphs and rewrites the graphs in place."""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

# A pattern is the name of a tensor to capture, or a tuple of an operator and its inputs' patterns.
Pattern = str | tuple
_COMMUTATIVE = {"Add", "Mul", "And"}
_LARGE = 1024  # number of values; smaller constants can be shapes
WRAPPERS = re.compile(r"^((Stateful)?PartitionedCall(_\d+)?/)+(?=.)")  # prefix of all layer names


class Graph:
    """An ONNX graph that is rewritten in place.

    A rewrite replaces a node by another one with the same output. `finish` removes the nodes and
    constants that are no longer used.

    Args:
        model: model to rewrite.

    Attributes:
        model: the model; `finish` writes the changes to it.
        nodes: its nodes, in execution order.
        shapes: shape of each tensor by name, with 0 for a free dimension.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        self.nodes = list(model.graph.node)
        self._constants = {x.name: x for x in model.graph.initializer}
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._consumers = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self._consumers[name].append(node)
        self._outputs = {x.name for x in model.graph.output}
        inferred = onnx.shape_inference.infer_shapes(_without_large_constants(model)).graph
        self.shapes = {
            x.name: [size.dim_value for size in x.type.tensor_type.shape.dim]
            for x in (*inferred.value_info, *model.graph.input)
        }

    def producer(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """Returns the node that computes a tensor if it has one of these types, else None."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type in op_types else None

    def constant(self, name: str) -> np.ndarray | None:
        """Returns the value of a constant tensor, or None for other tensors."""
        found = self._constants.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def add_constant(self, value: np.ndarray, like: str) -> str:
        """Adds a constant and returns its name, which begins with the name of another tensor."""
        number = 0
        while (name := f"{like}__clean_{number}") in self._constants:
            number += 1
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def is_read_once(self, name: str) -> bool:
        """Returns whether exactly one node reads a tensor, and it is not an output of the graph."""
        return len(self._consumers[name]) == 1 and name not in self._outputs

    def rewrite(self, node: onnx.NodeProto, op_type: str, inputs: list[str], **attributes) -> None:
        """Changes the operator of a node, which keeps its name and its first output."""
        for name in node.input:
            self._consumers[name].remove(node)
        kept = helper.make_node(op_type, inputs, [node.output[0]], node.name, **attributes)
        node.CopyFrom(kept)
        for name in inputs:
            self._consumers[name].append(node)

    def insert_before(
        self, node: onnx.NodeProto, op_type: str, inputs: list[str], **attributes
    ) -> str:
        """Inserts a node with one output before another node and returns the name of the output."""
        name = f"{node.output[0]}__clean_{op_type}"
        added = helper.make_node(op_type, inputs, [name], name, **attributes)
        self.nodes.insert(next(i for i, x in enumerate(self.nodes) if x is node), added)
        self._producers[name] = added
        for tensor in inputs:
            self._consumers[tensor].append(added)
        return name

    def match(self, name: str, pattern: Pattern, bound: dict[str, str]) -> dict[str, str] | None:
        """Matches a pattern with the nodes that compute a tensor.

        Args:
            name: name of the tensor.
            pattern: see `Pattern`; a name that occurs twice must be the same tensor.
            bound: tensors that were captured before.

        Returns:
            The captured tensors by name, or None if the pattern does not match.
        """
        if isinstance(pattern, str):
            return {**bound, pattern: name} if bound.get(pattern, name) == name else None
        op_type, *arguments = pattern
        node = self.producer(name, op_type)
        if node is None or len(node.input) < len(arguments):
            return None
        orders = [list(node.input)]
        if op_type in _COMMUTATIVE:
            orders.append(orders[0][::-1])
        for inputs in orders:
            found: dict[str, str] | None = bound
            for argument, part in zip(inputs, arguments, strict=False):
                found = self.match(argument, part, found)
                if found is None:
                    break
            else:
                return found
        return None

    def matches(self, pattern: tuple) -> Iterator[tuple[onnx.NodeProto, dict[str, str]]]:
        """Yields the last node of each match of a pattern, and the captured tensors."""
        for node in self.nodes:
            if node.op_type == pattern[0]:
                found = self.match(node.output[0], pattern, {})
                if found is not None:
                    yield node, found

    def finish(self) -> None:
        """Writes the nodes and constants that the outputs need to the model.

        A node without a layer in its name, as tf2onnx makes some, gets the layer of its kernel, or
        without a kernel the layer of a node that reads it.
        """
        taken = {node.name for node in self.nodes}
        for node in reversed(self.nodes):
            kernels = node.input[1:2] if node.op_type == "Conv" else ()
            near = (WRAPPERS.sub("", name) for name in kernels if name in self._constants)
            readers = (x.name for x in self._consumers[node.output[0]])
            named = (name for name in (*near, *readers) if "/" in name)
            if "/" not in node.name and (name := next(named, None)):
                name = f"{name.rpartition('/')[0]}/{node.name}"
                numbers = itertools.count(1)
                node.name = name
                while node.name in taken:
                    node.name = f"{name}_{next(numbers)}"
                taken.add(node.name)
        needed, kept = set(self._outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        graph = self.model.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        # One by one: a message keeps the memory of what is removed from it, so that copies add up.
        for number in reversed(range(len(graph.initializer))):
            if graph.initializer[number].name not in needed:
                del graph.initializer[number]
        missing = needed - {x.name for x in graph.initializer}
        graph.initializer.extend(x for name, x in self._constants.items() if name in missing)


def _without_large_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a model with large constants as inputs, for the inference of shapes.

    onnx writes the model to bytes and reads the result from bytes, which takes several times the
    memory of the constants. The values of small constants can be shapes.
    """
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) < _LARGE:
            graph.initializer.append(tensor)
        else:
            described = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(described)
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, graph=graph
    )
