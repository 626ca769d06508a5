"""Replaces sequences of small operators from tf2onnx by operators that runtimes compute faster.

Each function takes a graph, rewrites it in place and returns the number of rewritten places.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from tools.conversion.rewrites.graph import Graph


def selects(graph: Graph) -> int:
    """Replaces `mask * x + (1 - mask) * y` by `Where`, which ignores NaN in the other branch."""
    count = 0
    chosen, other = ("Mul", ("Cast", "mask"), "x"), ("Mul", ("Cast", ("Not", "mask")), "y")
    for node, found in graph.matches(("Add", chosen, other)):
        graph.rewrite(node, "Where", [found["mask"], found["x"], found["y"]])
        count += 1
    return count


def layer_norms(graph: Graph) -> int:
    """Replaces a layer normalization of Keras over the last axis by `LayerNormalization`.

    tf2onnx omits a scale of ones and an offset of zeros.
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


def dense_layers(graph: Graph) -> int:
    """Replaces a matrix product between two reshapes, from a dense layer, by one `MatMul`."""
    count = 0
    flat = ("Reshape", ("MatMul", ("Reshape", "x", "flat_shape"), "kernel"), "shape")
    for node, found in graph.matches(flat):
        kernel, shape = _sizes_of(graph, found["kernel"]), graph.constant(found["flat_shape"])
        if len(kernel) != 2 or 0 in kernel or shape is None or shape[0] != -1:
            continue
        if len(shape) != 2 or shape[1] != kernel[0]:
            continue
        if _is_shape_with_last(graph, found["shape"], found["x"], kernel[1]):
            graph.rewrite(node, "MatMul", [found["x"], found["kernel"]])
            count += 1
    return count


def _sizes_of(graph: Graph, name: str) -> Sequence[int]:
    """Returns the shape of a constant, or of a large weight, which is an input of the graph."""
    value = graph.constant(name)
    return graph.shapes.get(name, ()) if value is None else value.shape


def _is_shape_with_last(graph: Graph, name: str, like: str, last: int) -> bool:
    """Returns whether a tensor holds the shape of another tensor with `last` as its last size."""
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


def batch_norms(graph: Graph) -> int:
    """Folds a scale and an offset of each channel into the convolution before them.

    tf2onnx omits an offset of zeros.
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


def grouped_convolutions(graph: Graph) -> int:
    """Replaces equal convolutions of the parts of a split by one grouped convolution.

    Models use separate convolutions, because TensorFlow cannot train grouped ones on CPUs.
    """
    count = 0
    for node in graph.nodes:
        if node.op_type == "Concat" and len(node.input) > 1:
            count += _join_groups(graph, node)
    return count


def _join_groups(graph: Graph, node: onnx.NodeProto) -> bool:
    convolutions = [graph.producer(name, "Conv") for name in node.input]
    if None in convolutions or not all(map(graph.is_read_once, node.input)):
        return False
    attributes, *others = (
        {x.name: helper.get_attribute_value(x) for x in convolution.attribute}
        for convolution in convolutions
    )
    # The kernel of each convolution, and its bias if it has one.
    parameters = [[*map(graph.constant, x.input[1:])] for x in convolutions]
    shapes = [[None if x is None else x.shape for x in group] for group in parameters]
    if attributes.get("group", 1) != 1 or any(x != attributes for x in others):
        return False
    if None in shapes[0] or any(x != shapes[0] for x in shapes):
        return False
    parts = [x.input[0] for x in convolutions]
    rank, channels = len(shapes[0][0]), 1
    transposes = [graph.producer(name, "Transpose") for name in parts]
    order = None if None in transposes else _order_of_all(transposes)
    if order is not None:
        parts, channels = [x.input[0] for x in transposes], order[1]
    split = graph.producer(parts[0], "Split")
    axis = next(x.i for x in node.attribute if x.name == "axis")
    if split is None or parts != list(split.output) or axis % rank != 1:
        return False
    if next((x.i for x in split.attribute if x.name == "axis"), 0) % rank != channels:
        return False
    whole = split.input[0]
    if order is not None:
        whole = graph.insert_before(node, "Transpose", [whole], perm=order)
    joined = [np.concatenate(x) for x in zip(*parameters, strict=True)]
    names = [graph.add_constant(value, node.name) for value in joined]
    attributes["group"] = len(parts)
    graph.rewrite(node, "Conv", [whole, *names], **attributes)
    return True


def _order_of_all(transposes) -> list[int] | None:
    orders = [next(list(a.ints) for a in x.attribute if a.name == "perm") for x in transposes]
    return orders[0] if all(x == orders[0] for x in orders) else None


def gelus(graph: Graph) -> int:
    """Rewrites GELU with the error function to the form that ONNX Runtime 1.31 fuses.

    tf2onnx replaces the division by a product, and can give the constant 1 another shape. OpenVINO
    fuses both forms.
    """
    count = 0
    for scaled in (("Mul", "x", "inverse"), ("Mul", "inverse", "x")):
        plus = ("Add", ("Erf", scaled), "one")
        for node, found in graph.matches(("Mul", plus, ("Mul", "x", "half"))):
            count += _respell_gelu(graph, node, found)
    return count


def _respell_gelu(graph: Graph, node: onnx.NodeProto, found: dict[str, str]) -> bool:
    wanted = {"inverse": math.sqrt(0.5), "half": 0.5, "one": 1.0}
    values = {name: graph.constant(found[name]) for name in wanted}
    if any(x is None or x.size != 1 for x in values.values()):
        return False
    if not all(math.isclose(values[k].item(), x, rel_tol=1e-6) for k, x in wanted.items()):
        return False
    plus = next(x for x in (graph.producer(name, "Add") for name in node.input) if x is not None)
    erf = next(name for name in plus.input if name != found["one"])
    scaled = graph.producer(graph.producer(erf, "Erf").input[0], "Mul")
    root, one = (
        graph.add_constant(np.array(x, values["one"].dtype), node.name) for x in (math.sqrt(2), 1)
    )
    graph.rewrite(scaled, "Div", [found["x"], root])
    graph.rewrite(plus, "Add", [erf, one])
    return True
