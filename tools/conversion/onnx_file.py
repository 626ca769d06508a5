"""ONNX files, exported by this project or by others, as models to convert and to run."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from tools.conversion.protocol import FOREIGN, TensorSpec
from tools.errors import UserError

METADATA_KEY = "pipeline"  # metadata key of the content of pipeline.json
SIGNATURE = "serving_default"  # the only signature of an ONNX file


def read_onnx(path: str | Path) -> onnx.ModelProto:
    """Reads an ONNX file with its weights, also those in files beside it.

    Raises:
        UserError: the file cannot be read, or a weight is NaN. Infinities are allowed, because
            masks contain them.
    """
    path = Path(path)
    model = _loaded(path, with_weights=True)
    weights = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
    bad = [name for name, x in weights.items() if x.dtype.kind == "f" and np.isnan(x).any()]
    if bad:
        raise UserError.expected(
            f"finite weights in {path}",
            f"NaN or infinity in {len(bad)} tensors: {bad[0]}",
            "Export another checkpoint, from before the training diverged",
        )
    inputs = [x for x in model.graph.input if x.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)  # old exporters list weights as inputs
    return model


def description(path: str | Path) -> dict:
    """Returns the description of an ONNX file, with the keys of a `pipeline.json`.

    `vision.export` stores it in the file. For other files it has the family `onnx`, the inputs, and
    no preprocessing.

    Raises:
        UserError: the file cannot be read.
    """
    model = _loaded(Path(path), with_weights=False)
    told = {entry.key: entry.value for entry in model.metadata_props}.get(METADATA_KEY)
    if told is None:
        return {"family": FOREIGN, "convert": {SIGNATURE: {"dim_range": {}}}}
    try:
        found = json.loads(told)
        return {**found, "family": found["family"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError.expected(
            f"a readable {METADATA_KEY} in the metadata of {path}", error, "Export it again"
        ) from error


def assumptions(path: str | Path, pipeline: Mapping) -> str | None:
    """Returns a line on what is assumed about an ONNX file; None if it has a description."""
    if pipeline["family"] != FOREIGN:
        return None
    inputs = "; ".join(
        f"{name} {dtype} [{', '.join('?' if x is None else str(x) for x in shape)}]"
        for name, dtype, shape in input_specs(_loaded(Path(path), with_weights=False))
    )
    return (
        f"{path} has no description. Assumed: inputs {inputs}; the first dimension is the batch; "
        "inputs are ready, without any preprocessing"
    )


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Returns the inputs of a model, sorted by name, with None for free dimensions."""
    weights = {x.name for x in model.graph.initializer}
    specs = []
    for tensor in model.graph.input:
        if tensor.name in weights:
            continue
        kind = tensor.type.tensor_type
        name = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        shape = tuple(x.dim_value if x.HasField("dim_value") else None for x in kind.shape.dim)
        specs.append(TensorSpec(tensor.name, "string" if name == "object" else name, shape))
    return tuple(sorted(specs))


def set_batch(model: onnx.ModelProto, size: int) -> None:
    """Fixes the first dimension of all inputs and outputs of a model to a size, in place."""
    for tensor in (*model.graph.input, *model.graph.output):
        if tensor.type.tensor_type.shape.dim:
            tensor.type.tensor_type.shape.dim[0].dim_value = size


def files_of(path: Path) -> list[Path]:
    """Returns an ONNX file and the files beside it that hold its weights."""
    weights = _loaded(path, with_weights=False).graph.initializer
    beside = {ExternalDataInfo(x).location for x in weights if uses_external_data(x)}
    return [path, *(path.parent / name for name in sorted(beside))]


def _loaded(path: Path, *, with_weights: bool) -> onnx.ModelProto:
    if not path.is_file():
        raise UserError.expected("an ONNX file", f"{path}: no such file", "Correct the file name")
    try:
        model = onnx.load(path, load_external_data=with_weights)
    except Exception as error:  # the exceptions of protobuf and ONNX have no common base class
        reason = " ".join(str(error).split())[:200]
        raise UserError.expected(f"an ONNX model in {path}", reason, "Export it again") from error
    if not model.graph.node or not model.graph.output:
        raise UserError.expected(f"an ONNX model in {path}", "an empty graph", "Export it again")
    return model
