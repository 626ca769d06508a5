"""Replaces operators that are not needed, or that a runtime computes slowly or wrongly.

Each function takes a graph, rewrites it in place and returns the number of rewritten places.
"""

import numpy as np
import onnx
from onnx import helper

from tools.conversion.rewrites.graph import Graph

_ELEMENTWISE = {"Add", "Clip", "Mul", "Relu", "Sigmoid", "Sub", "Where"}
_FULL = 2**31 - 1  # tf2onnx writes an open end of a slice as the largest integer of its type


def full_slices(graph: Graph) -> int:
    """Removes slices that select everything, such as those of `x[:, None]`."""
    count = 0
    for node, found in graph.matches(("Slice", "x", "starts", "ends", "axes")):
        starts, ends = graph.constant(found["starts"]), graph.constant(found["ends"])
        steps = graph.constant(node.input[4]) if len(node.input) > 4 else np.ones(1)
        known = starts is not None and ends is not None and steps is not None
        if known and np.all(starts == 0) and np.all(ends >= _FULL) and np.all(steps == 1):
            graph.rewrite(node, "Identity", [found["x"]])
            count += 1
    return count


def absolutes(graph: Graph) -> int:
    """Replaces `Abs(x)` by `Max(x, -x)`: OpenVINO 2026.4 is wrong for constants of type int32.

    With a fixed shape, the positions of reflected padding are such constants. To be removed when
    `test_an_absolute_value_of_constants_is_right` passes without it.
    """
    found = [node for node in graph.nodes if node.op_type == "Abs"]
    for node in found:
        (value,) = node.input
        graph.rewrite(node, "Max", [value, graph.insert_before(node, "Neg", [value])])
    return len(found)


def transposes(graph: Graph) -> int:
    """Removes a transposition and its inverse around an elementwise operator.

    An example is a mask between convolutions. Other inputs of the operator are transposed instead,
    if they are scalars or small tensors.
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


def padded_pools(graph: Graph) -> int:
    """Replaces zero padding between ReLU and max pooling by the padding of the pooling.

    OpenVINO 2026.4 would write the padded map to memory with its slowest kernel.
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


def short_indices(graph: Graph) -> int:
    """Converts constant indices of `Gather` and `Slice` from 64 to 32 bits."""
    count = 0
    for node in graph.nodes:
        first, last = {"Gather": (1, 2), "Slice": (1, 5)}.get(node.op_type, (0, 0))
        names = [name for name in node.input[first:last] if name]
        values = [graph.constant(name) for name in names]
        # `Slice` requires the same type for all of its indices.
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
