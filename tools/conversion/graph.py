"""Cleaning of ONNX graphs: chains that tf2onnx spells out become operators that runtimes fuse."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

# A pattern is the name of a tensor to capture, or an operator with a pattern for each input.
Pattern = str | tuple
_COMMUTATIVE = {"Add", "Mul", "And"}
_ELEMENTWISE = {"Add", "Clip", "Mul", "Relu", "Sigmoid", "Sub", "Where"}
_LARGE = 1024  # values; a smaller constant is not worth a node
_FULL = 2**31 - 1  # tf2onnx writes an open end of a slice as the largest integer of its type
WRAPPERS = re.compile(r"^((Stateful)?PartitionedCall(_\d+)?/)+(?=.)")  # around every layer's name


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
        inferred = onnx.shape_inference.infer_shapes(model).graph
        # Sizes of tensors, 0 where one is free.
        self.shapes = {
            x.name: [size.dim_value for size in x.type.tensor_type.shape.dim]
            for x in (*inferred.value_info, *inferred.input)
        }

    def producer(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, if it is of one of these types."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type in op_types else None

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

    def insert_before(
        self, node: onnx.NodeProto, op_type: str, inputs: list[str], **attributes
    ) -> str:
        """Adds a node of one output in front of another one and returns that output."""
        name = f"{node.output[0]}__clean_{op_type}"
        added = helper.make_node(op_type, inputs, [name], name, **attributes)
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
        """Writes nodes and constants that the outputs need back to the model.

        Nodes that tf2onnx named by their type alone come to the layer of their kernel, those that
        have none to the layer of those that read them.
        """
        for node in reversed(self.nodes):
            kernels = node.input[1:2] if node.op_type == "Conv" else ()
            near = (WRAPPERS.sub("", name) for name in kernels if name in self._constants)
            readers = (x.name for x in self._consumers[node.output[0]])
            named = (name for name in (*near, *readers) if "/" in name)
            if "/" not in node.name and (name := next(named, None)):
                node.name = f"{name.rpartition('/')[0]}/{node.name}"
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


def clean(model: onnx.ModelProto, options: Collection[str] = ()) -> dict[str, int]:
    """Rewrites a model in place, keeping every value it computes.

    Args:
        model: of tf2onnx.
        options: further rewrites, names of `OPTIONS`.

    Returns:
        How often each rewrite was made.
    """
    rewrites, counts = dict(REWRITES), {}
    for option in options:
        rewrites |= OPTIONS[option]
    for name, rewrite in rewrites.items():
        graph = Graph(model)  # anew, with shapes that were unknown before the last rewrite
        counts[name] = rewrite(graph)
        graph.finish()
    return counts


def store_in_half(model: onnx.ModelProto) -> None:
    """Keeps the large float32 constants of a model in half precision; it computes as before."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        value = numpy_helper.to_array(tensor)
        if value.size < _LARGE or np.abs(value).max() > np.finfo(np.float16).max:
            continue
        name, half = tensor.name, f"{tensor.name}__half"
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), half))
        casts.append(helper.make_node("Cast", [half], [name], half, to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


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


def _transposes(graph: Graph) -> int:
    """There and back around an operator on single values, such as a mask between convolutions.

    What else the operator reads, a number or a tensor that is wide in few dimensions, is transposed
    instead.
    """
    count = 0
    for node, found in graph.matches(("Transpose", "between")):
        between = graph.producer(found["between"], *_ELEMENTWISE)
        if between is None or not graph.is_read_once(found["between"]):
            continue
        order = _order(node)
        inputs, others = [], []
        for name in between.input:
            before = graph.producer(name, "Transpose")
            if before is not None and [_order(before)[axis] for axis in order] == sorted(order):
                inputs.append(before.input[0])
                continue
            value, shape = graph.constant(name), graph.shapes.get(name, ())
            if value is None or value.size > 1:
                others.append(name)
                if len(shape) != len(order) or shape.count(1) < len(order) // 2:
                    break
            inputs.append(name)
        else:
            if len(others) == len(inputs):
                continue
            for name in others:
                moved = graph.insert_before(node, "Transpose", [name], perm=order)
                inputs[inputs.index(name)] = moved
            attributes = {x.name: helper.get_attribute_value(x) for x in between.attribute}
            graph.rewrite(node, between.op_type, inputs, **attributes)
            count += 1
    return count


def _order(transpose: onnx.NodeProto) -> list[int]:
    return next(list(x.ints) for x in transpose.attribute if x.name == "perm")


def _padded_pools(graph: Graph) -> int:
    """Zeros around what is never below zero, under a maximum: the pooling's own padding.

    OpenVINO 2026.4 writes the padded map out, with its slowest kernel.
    """
    count = 0
    for node, found in graph.matches(("MaxPool", ("Pad", ("Relu", "x"), "pads"))):
        attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
        padding, pads = graph.producer(node.input[0], "Pad"), graph.constant(found["pads"])
        kernel = np.array(attributes["kernel_shape"])
        mode = next((x.s for x in padding.attribute if x.name == "mode"), b"constant")
        value = graph.constant(padding.input[2]) if len(padding.input) > 2 else np.zeros(())
        if pads is None or value is None or value.any() or mode != b"constant":
            continue
        if len(padding.input) > 3 or len(node.output) > 1 or len(pads) != 2 * (len(kernel) + 2):
            continue
        edges = np.reshape(pads, (2, -1))  # before and after, batch and channels first
        inside = (edges >= 0).all() and (edges[:, 2:] < kernel).all() and not edges[:, :2].any()
        plain = not any(attributes.get(x) for x in ("pads", "ceil_mode", "dilations"))
        plain &= attributes.pop("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        if inside and plain:
            attributes["pads"] = edges[:, 2:].reshape(-1).tolist()
            graph.rewrite(node, "MaxPool", [padding.input[0]], **attributes)
            count += 1
    return count


def _layer_norms(graph: Graph) -> int:
    """The moments of the last axis and what Keras makes of them.

    tf2onnx leaves a factor of ones and an offset of zeros out.
    """
    mean = ("ReduceMean", "x", "axes")
    deviation = ("Sub", "x", mean)
    variance = ("ReduceMean", ("Mul", deviation, deviation), "axes")
    inverse = ("Reciprocal", ("Sqrt", ("Add", variance, "epsilon")))
    count = 0
    for scale in (("Mul", inverse, "gamma"), inverse):
        centred = ("Mul", ("Neg", mean), scale)
        for shift in (("Add", centred, "beta"), centred):
            for node, found in graph.matches(("Add", ("Mul", "x", scale), shift)):
                count += _fuse_layer_norm(graph, node, found)
    return count


def _fuse_layer_norm(graph: Graph, node: onnx.NodeProto, found: dict[str, str]) -> bool:
    values = {name: graph.constant(tensor) for name, tensor in found.items() if name != "x"}
    shape = graph.shapes.get(found["x"], ())
    if any(value is None for value in values.values()) or not shape or not shape[-1]:
        return False
    axes, epsilon, width = values["axes"], values["epsilon"], shape[-1]
    gamma = values.get("gamma", np.ones(width, np.float32))
    beta = values.get("beta", np.zeros(width, np.float32))
    if axes.size != 1 or axes.item() not in (-1, len(shape) - 1) or epsilon.size != 1:
        return False
    if any(value.size != width or value.shape[-1] != width for value in (gamma, beta)):
        return False
    parameters = [graph.add_constant(value.reshape(-1), node.name) for value in (gamma, beta)]
    attributes = {"axis": -1, "epsilon": float(epsilon.item())}
    graph.rewrite(node, "LayerNormalization", [found["x"], *parameters], **attributes)
    return True


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
    """A factor and an offset of each channel behind a convolution.

    tf2onnx leaves an offset of zeros out.
    """
    count = 0
    for behind in ("convolved", ("Squeeze", "convolved", "squeezed")):
        scaled = ("Mul", behind, "scale")
        for pattern in (("Add", scaled, "shift"), scaled):
            for node, found in graph.matches(pattern):
                count += _fold_batch_norm(graph, node, found)
    return count


def _fold_batch_norm(graph: Graph, node: onnx.NodeProto, found: dict[str, str]) -> bool:
    convolution = graph.producer(found["convolved"], "Conv")
    scale = graph.constant(found["scale"])
    if convolution is None or scale is None or scale.ndim < 2:
        return False
    kernel, *biases = map(graph.constant, convolution.input[1:])
    shift = graph.constant(found["shift"]) if "shift" in found else np.zeros_like(scale)
    if any(value is None for value in (kernel, shift, *biases)):
        return False
    channels = kernel.shape[0]
    if scale.shape != shift.shape or scale.size != channels or scale.shape[1] != channels:
        return False
    products = [node] if node.op_type == "Mul" else [graph.producer(x, "Mul") for x in node.input]
    product = next(x for x in products if x is not None and found["scale"] in x.input)
    normed = next(x for x in product.input if x != found["scale"])
    between = {found["convolved"], normed, product.output[0]} - set(node.output)
    if not all(graph.is_read_once(name) for name in between):
        return False
    scale, shift = scale.reshape(-1), shift.reshape(-1)
    folded = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
    offset = (biases[0] if biases else 0.0) * scale + shift
    parameters = [graph.add_constant(value, convolution.name) for value in (folded, offset)]
    attributes = {x.name: helper.get_attribute_value(x) for x in convolution.attribute}
    graph.rewrite(convolution, "Conv", [convolution.input[0], *parameters], **attributes)
    graph.rewrite(node, "Identity", [normed])
    return True


def _short_indices(graph: Graph) -> int:
    """Constants of 64 bits that only pick elements, in 32 bits."""
    count = 0
    for node in graph.nodes:
        first, last = {"Gather": (1, 2), "Slice": (1, 5)}.get(node.op_type, (0, 0))
        names = [name for name in node.input[first:last] if name]
        values = [graph.constant(name) for name in names]
        # A slice wants all of its numbers in one type.
        if not names or any(value is None or value.dtype != np.int64 for value in values):
            continue
        limits = np.iinfo(np.int32)
        short = [np.clip(value, limits.min, limits.max).astype(np.int32) for value in values]
        renamed = dict(zip(names, (graph.add_constant(x, node.name) for x in short), strict=True))
        attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
        inputs = [renamed.get(name, name) for name in node.input]
        graph.rewrite(node, node.op_type, inputs, **attributes)
        count += len(names)
    return count


REWRITES: dict[str, Callable[[Graph], int]] = {
    "full_slice": _full_slices,
    "select": _selects,
    "absolute": _absolutes,
    "transpose": _transposes,
    "padded_pool": _padded_pools,
    "dense": _dense_layers,
    "layer_norm": _layer_norms,
}
# Asked for by the names of `--opt_config`.
OPTIONS: dict[str, dict[str, Callable[[Graph], int]]] = {
    "conv_scale_fold": {"batch_norm": _batch_norms},
    "type64to32_conversion": {"short_index": _short_indices},
}
