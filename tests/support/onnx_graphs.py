"""ONNX graphs that are written by hand."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray],
    booleans: Sequence[str] = (),
) -> onnx.ModelProto:
    """Makes a model of opset 18.

    Args:
        nodes: in the order in which they run.
        inputs: shapes by name.
        outputs: names of float tensors.
        constants: values by name.
        booleans: inputs that are masks; the others are float.
    """
    types = {name: onnx.TensorProto.FLOAT for name in (*inputs, *outputs)}
    types |= {name: onnx.TensorProto.BOOL for name in booleans}
    shapes = dict.fromkeys(outputs) | dict(inputs)
    described = {x: helper.make_tensor_value_info(x, types[x], shapes[x]) for x in types}
    graph = helper.make_graph(
        nodes,
        "made",
        [described[name] for name in inputs],
        [described[name] for name in outputs],
        [numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run_model(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Gives the outputs of a model in ONNX Runtime."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(inputs))
