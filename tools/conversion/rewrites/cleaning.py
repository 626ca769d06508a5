"""Applies all rewrites to ONNX graphs, and stores weights in half precision."""

from collections.abc import Callable, Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tools.conversion.rewrites.fusion import (
    batch_norms,
    dense_layers,
    gelus,
    grouped_convolutions,
    layer_norms,
    selects,
)
from tools.conversion.rewrites.graph import Graph
from tools.conversion.rewrites.tidying import (
    absolutes,
    full_slices,
    padded_pools,
    short_indices,
    transposes,
)

_LARGE = 1024  # number of values; smaller constants stay in float32

REWRITES: dict[str, Callable[[Graph], int]] = {
    "full_slice": full_slices,
    "select": selects,
    "absolute": absolutes,
    "transpose": transposes,
    "padded_pool": padded_pools,
    "grouped_convolution": grouped_convolutions,
    "dense": dense_layers,
    "layer_norm": layer_norms,
    "gelu": gelus,
}
# Optional rewrites, by their names in `--opt_config`.
OPTIONS: dict[str, dict[str, Callable[[Graph], int]]] = {
    "conv_scale_fold": {"batch_norm": batch_norms},
    "type64to32_conversion": {"short_index": short_indices},
}


def clean(model: onnx.ModelProto, options: Collection[str] = ()) -> dict[str, int]:
    """Rewrites a model in place. Its outputs stay the same.

    Args:
        model: model from tf2onnx.
        options: optional rewrites, by their names in `OPTIONS`.

    Returns:
        Number of rewritten places for each rewrite.
    """
    rewrites, counts = dict(REWRITES), {}
    for option in options:
        rewrites |= OPTIONS[option]
    for name, rewrite in rewrites.items():
        graph = Graph(model)  # infers shapes again, after the last rewrite
        counts[name] = rewrite(graph)
        graph.finish()
    return counts


def store_in_half(model: onnx.ModelProto) -> None:
    """Stores large float32 constants in half precision; the model still computes in float32.

    Args:
        model: rewritten in place.
    """
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
