"""Cleaning of ONNX graphs: chains that tf2onnx spells out become operators that runtimes fuse."""

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

# A pattern is the name of a tensor to capture, or an operator with a pattern for each input.
Pattern = str | tuple
_COMMUTATIVE = {"Add", "Mul", "And"}
_FULL = 2**31 - 1  # tf2onnx writes an open end of a slice as the largest integer of its type


class Graph:
    """An ONNX graph that is rewritten in place.

    A rewrite turns one node into another with the same output; what nobody reads any more is
    dropped by `finish`.
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

    def producer(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, if it is of this type."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a constant tensor, None for any other."""
        found = self._constants.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def add_constant(self, value: np.ndarray, like: str) -> str:
        """Stores a constant and returns its name, made from that of another tensor."""
        number = 0
        while (name := f"{like}__clean_{number}") in self._constants:
            number += 1
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def is_read_once(self, name: str) -> bool:
        """Tells whether exactly one node reads a tensor and it is no output of the graph."""
        return len(self._consumers[name]) == 1 and name not in self._outputs

    def rewrite(self, node: onnx.NodeProto, op_type: str, inputs: list[str], **attributes) -> None:
        """Makes another operator of a node, which keeps its name and its first output."""
        for name in node.input:
            self._consumers[name].remove(node)
        kept = helper.make_node(op_type, inputs, [node.output[0]], node.name, **attributes)
        node.CopyFrom(kept)
        for name in inputs:
            self._consumers[name].append(node)

    def insert_before(self, node: onnx.NodeProto, op_type: str, inputs: list[str]) -> str:
        """Adds a node of one output in front of another one and returns that output."""
        name = f"{node.output[0]}__clean_{op_type}"
        added = helper.make_node(op_type, inputs, [name], name)
        self.nodes.insert(next(i for i, x in enumerate(self.nodes) if x is node), added)
        self._producers[name] = added
        for tensor in inputs:
            self._consumers[tensor].append(added)
        return name

    def match(self, name: str, pattern: Pattern, bound: dict[str, str]) -> dict[str, str] | None:
        """Finds a pattern above a tensor.

        Args:
            name: of the tensor.
            pattern: see `Pattern`; a name that occurs twice must be the same tensor.
            bound: tensors captured so far.

        Returns:
            The captured tensors by name, None where the pattern is not there.
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
        """Walks over the nodes at which a pattern ends, with what it captures."""
        for node in self.nodes:
            if node.op_type == pattern[0]:
                found = self.match(node.output[0], pattern, {})
                if found is not None:
                    yield node, found

    def finish(self) -> None:
        """Writes nodes and constants that the outputs need back to the model."""
        needed, kept = set(self._outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        graph = self.model.graph
        constants = [x for name, x in self._constants.items() if name in needed]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(constants)


def clean(model: onnx.ModelProto) -> dict[str, int]:
    """Rewrites a model in place, keeping every value it computes.

    Returns:
        How often each rewrite was made.
    """
    graph = Graph(model)
    counts = {name: rewrite(graph) for name, rewrite in REWRITES.items()}
    graph.finish()
    return counts


def _full_slices(graph: Graph) -> int:
    """A slice that takes everything, as `x[:, None]` leaves behind."""
    count = 0
    for node, found in graph.matches(("Slice", "x", "starts", "ends", "axes")):
        starts, ends = graph.constant(found["starts"]), graph.constant(found["ends"])
        steps = graph.constant(node.input[4]) if len(node.input) > 4 else np.ones(1)
        known = starts is not None and ends is not None and steps is not None
        if known and np.all(starts == 0) and np.all(ends >= _FULL) and np.all(steps == 1):
            graph.rewrite(node, "Identity", [found["x"]])
            count += 1
    return count


def _selects(graph: Graph) -> int:
    """`mask * x + (1 - mask) * y`, which would let a NaN through that `Where` holds back."""
    count = 0
    chosen, other = ("Mul", ("Cast", "mask"), "x"), ("Mul", ("Cast", ("Not", "mask")), "y")
    for node, found in graph.matches(("Add", chosen, other)):
        graph.rewrite(node, "Where", [found["mask"], found["x"], found["y"]])
        count += 1
    return count


def _absolutes(graph: Graph) -> int:
    """Absolute values as a maximum: OpenVINO 2026.4 computes those of int32 constants wrongly.

    The positions of a reflected edge are such constants where a shape is fixed. To be removed when
    `test_an_absolute_value_of_constants_is_right` passes without it.
    """
    found = [node for node in graph.nodes if node.op_type == "Abs"]
    for node in found:
        (value,) = node.input
        graph.rewrite(node, "Max", [value, graph.insert_before(node, "Neg", [value])])
    return len(found)


def _layer_norms(graph: Graph) -> int:
    """The moments of the last axis and what Keras makes of them."""
    mean = ("ReduceMean", "x", "axes")
    deviation = ("Sub", "x", mean)
    variance = ("ReduceMean", ("Mul", deviation, deviation), "axes")
    scale = ("Mul", ("Reciprocal", ("Sqrt", ("Add", variance, "epsilon"))), "gamma")
    shift = ("Add", ("Mul", ("Neg", mean), scale), "beta")
    count = 0
    for node, found in graph.matches(("Add", ("Mul", "x", scale), shift)):
        gamma, beta = graph.constant(found["gamma"]), graph.constant(found["beta"])
        axes, epsilon = graph.constant(found["axes"]), graph.constant(found["epsilon"])
        if any(value is None for value in (gamma, beta, axes, epsilon)):
            continue
        if epsilon.size != 1 or gamma.size != gamma.shape[-1] or gamma.shape != beta.shape:
            continue
        # Keras gives the last axis by its number, which is the rank of its parameters less one.
        if axes.size != 1 or axes.item() not in (-1, gamma.ndim - 1):
            continue
        parameters = [graph.add_constant(value.reshape(-1), node.name) for value in (gamma, beta)]
        graph.rewrite(
            node,
            "LayerNormalization",
            [found["x"], *parameters],
            axis=-1,
            epsilon=float(epsilon.item()),
        )
        count += 1
    return count


def _dense_layers(graph: Graph) -> int:
    """A product of the last axis that goes by way of a matrix and back."""
    count = 0
    flat = ("Reshape", ("MatMul", ("Reshape", "x", "flat_shape"), "kernel"), "shape")
    for node, found in graph.matches(flat):
        kernel, shape = graph.constant(found["kernel"]), graph.constant(found["flat_shape"])
        if kernel is None or kernel.ndim != 2 or shape is None or shape[0] != -1:
            continue
        if len(shape) != 2 or shape[1] != kernel.shape[0]:
            continue
        if _is_shape_with_last(graph, found["shape"], found["x"], kernel.shape[1]):
            graph.rewrite(node, "MatMul", [found["x"], found["kernel"]])
            count += 1
    return count


def _is_shape_with_last(graph: Graph, name: str, like: str, last: int) -> bool:
    """Tells whether a tensor holds the shape of another one up to its last axis, then a number."""
    gathered = ("Gather", ("Cast", ("Shape", "like")), "axes")
    found = graph.match(name, ("Cast", ("Concat", gathered, "last")), {"like": like})
    if found is None:
        return False
    axes, number = graph.constant(found["axes"]), graph.constant(found["last"])
    return (
        axes is not None
        and number is not None
        and number.tolist() == [last]
        and axes.tolist() == list(range(axes.size))
    )


def _batch_norms(graph: Graph) -> int:
    """A factor and an offset of each channel behind a convolution."""
    count = 0
    for behind in ("convolved", ("Squeeze", "convolved", "squeezed")):
        for node, found in graph.matches(("Add", ("Mul", behind, "scale"), "shift")):
            convolution = graph.producer(found["convolved"], "Conv")
            scale, shift = graph.constant(found["scale"]), graph.constant(found["shift"])
            if convolution is None or scale is None or shift is None or scale.ndim < 2:
                continue
            kernel = graph.constant(convolution.input[1])
            bias = (
                graph.constant(convolution.input[2])
                if len(convolution.input) > 2
                else np.zeros(1, np.float32)
            )
            if kernel is None or bias is None or scale.shape != shift.shape:
                continue
            if scale.size != kernel.shape[0] or scale.shape[1] != kernel.shape[0]:
                continue
            inner = graph.match(node.output[0], ("Add", ("Mul", "normed", "scale"), "shift"), found)
            between = {found["convolved"], inner["normed"]}
            if not all(graph.is_read_once(name) for name in between):
                continue
            scale, shift = scale.reshape(-1), shift.reshape(-1)
            folded = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
            parameters = [
                graph.add_constant(value, convolution.name)
                for value in (folded, bias * scale + shift)
            ]
            attributes = {x.name: helper.get_attribute_value(x) for x in convolution.attribute}
            graph.rewrite(convolution, "Conv", [convolution.input[0], *parameters], **attributes)
            graph.rewrite(node, "Identity", [inner["normed"]])
            count += 1
    return count


REWRITES: dict[str, Callable[[Graph], int]] = {
    "full_slice": _full_slices,
    "select": _selects,
    "absolute": _absolutes,
    "layer_norm": _layer_norms,
    "dense": _dense_layers,
    "batch_norm": _batch_norms,
}
