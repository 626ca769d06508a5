"""Writes ONNX files of exported SavedModels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tools.conversion.backends import onnxruntime
from tools.conversion.large_weights import write_graph
from tools.conversion.onnx_file import METADATA_KEY, SIGNATURE, set_batch
from tools.conversion.request import OPT_CONFIG
from tools.conversion.rewrites.cleaning import clean
from tools.conversion.samples import random_inputs
from tools.conversion.saved_model import input_specs, load_saved_model
from tools.conversion.signature import OPSET, to_onnx, translated
from tools.errors import UserError
from tools.files import to_json, write_bytes

OPSETS = range(11, OPSET + 1)
_ROWS = 2  # number of inputs of a comparison, unless the batch size is fixed
_TOLERANCE = 1e-3  # largest difference, as a share of the largest value of an output


class Difference(NamedTuple):
    """Difference between TensorFlow and ONNX Runtime on the same random inputs.

    Attributes:
        largest: largest difference of a value.
        value: largest absolute value in the output of TensorFlow.
        rows: number of inputs.
    """

    largest: float
    value: float
    rows: int


def check_opset(opset: int) -> None:
    """Checks a version of the ONNX operators; raises UserError unless it is one of `OPSETS`."""
    if opset not in OPSETS:
        raise UserError.expected(
            f"--opset from {OPSETS[0]} to {OPSETS[-1]}", opset, "Correct --opset"
        )


def export_onnx(
    saved_model_dir: Path,
    pipeline: Mapping,
    path: Path,
    *,
    opset: int = OPSET,
    batch: int | None = None,
    verify: bool = False,
) -> Difference | None:
    """Converts `serving_default` of a SavedModel to an ONNX file.

    Inputs and outputs keep their names. The description of the model is stored as metadata.

    Args:
        saved_model_dir: SavedModel.
        pipeline: description of the model, the content of `pipeline.json`.
        path: ONNX file to write.
        opset: version of the ONNX operators, one of `OPSETS`.
        batch: fixed batch size; None leaves the first dimension free.
        verify: whether to run the file in ONNX Runtime before it is written, and to compare the
            outputs with those of TensorFlow.

    Returns:
        The difference if `verify` is true, else None.

    Raises:
        UserError: `opset` is not one of `OPSETS`, or the difference is too large.
    """
    check_opset(opset)
    function = load_saved_model(saved_model_dir)[SIGNATURE]
    graph = to_onnx(function, SIGNATURE, opset)
    clean(graph)
    if batch is not None:
        set_batch(graph, batch)
    graph.metadata_props.add(key=METADATA_KEY, value=to_json(pipeline))
    content = graph.SerializeToString()
    difference = _compared(function, content, batch or _ROWS) if verify else None
    if difference and difference.largest > _TOLERANCE * difference.value:
        raise UserError.expected(
            f"outputs of ONNX Runtime that differ by at most {_TOLERANCE * difference.value:.1e}",
            f"{difference.largest:.1e}",
            f"Use --opset={OPSET}, or leave --verify out",
        )
    write_bytes(path, content)
    return difference


def write_function(
    function: tf.types.experimental.PolymorphicFunction,
    path: Path,
    *,
    outputs: Sequence[str],
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Writes a function as an ONNX file for a program that takes tensors by their places.

    Weights of more than 1.9 GB are written into a file beside it.

    Args:
        function: `tf.function` with an input signature, which returns a dictionary.
        path: ONNX file to write.
        outputs: names of the outputs in their order. Inputs have the order of the signature.
        metadata: entries of the file's metadata.
    """
    concrete = function.get_concrete_function()
    graph, weights = translated(concrete, path.stem)
    clean(graph, OPT_CONFIG)
    inputs = [spec.name for spec in concrete.structured_input_signature[0]]
    for listed, names in ((graph.graph.input, [*inputs, *weights]), (graph.graph.output, outputs)):
        tensors = {tensor.name: tensor for tensor in listed}
        ordered = [tensors[name] for name in names]
        del listed[:]
        listed.extend(ordered)
    for key, value in (metadata or {}).items():
        graph.metadata_props.add(key=key, value=str(value))
    write_graph(graph, weights, path)


def _compared(
    function: tf.types.experimental.ConcreteFunction, content: bytes, rows: int
) -> Difference:
    """Runs a SavedModel and an ONNX file on the same random inputs."""
    specs = input_specs(function)
    inputs = random_inputs(specs, {spec.name: (rows, *spec.shape[1:]) for spec in specs})
    expected = function(**{name: tf.constant(value) for name, value in inputs.items()})
    found = onnxruntime.as_function(onnxruntime.new_session(content, {}))(inputs)
    pairs = [(found[name], value.numpy()) for name, value in expected.items()]
    return Difference(
        max(float(np.abs(x - y).max()) for x, y in pairs),
        max(float(np.abs(y).max()) for _, y in pairs),
        rows,
    )
