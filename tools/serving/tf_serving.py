"""The REST format of TensorFlow Serving: requests to arrays, arrays to answers.

Source: TensorFlow Serving's "RESTful API" guide.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tools.conversion.protocol import TensorSpec
from tools.errors import UserError
from tools.files import to_json

DEFAULT_SIGNATURE = "serving_default"
_TYPES = {
    "float32": "DT_FLOAT",
    "float16": "DT_HALF",
    "float64": "DT_DOUBLE",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "bool": "DT_BOOL",
    "string": "DT_STRING",
}
_KINDS = {"f": "finite numbers", "i": "integers", "b": "booleans"}

Signatures = Mapping[str, Sequence[TensorSpec]]


class PredictRequest(NamedTuple):
    """A request to `:predict`.

    Attributes:
        signature: name of the signature.
        inputs: arrays by name.
        by_row: whether the answer has the row format (`predictions`), else the column format.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    by_row: bool


def parse_json(body: bytes) -> dict:
    """Returns the JSON object in the body of a request.

    Raises:
        UserError: the body is no JSON object in UTF-8.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError.expected(
            "a JSON object as the body", f"{type(error).__name__}: {error}", "Correct the body"
        ) from error
    if not isinstance(content, dict):
        raise UserError.expected(
            "a JSON object as the body", type(content).__name__, "Correct the body"
        )
    return content


def predict_request(content: Mapping, signatures: Signatures) -> PredictRequest:
    """Converts the JSON object of a request to arrays.

    Args:
        content: the object, with `instances` (row format) or `inputs` (column format), and
            optionally `signature_name`.
        signatures: inputs of each signature of the model.

    Raises:
        UserError: the object has another form, or its values do not fit the signature.
    """
    name = content.get("signature_name")
    name = DEFAULT_SIGNATURE if name in (None, "") else name
    specs = specs_of(name, signatures)
    formats = [key for key in ("instances", "inputs") if key in content]
    if len(formats) != 1:
        raise UserError.expected(
            "either instances or inputs", " and ".join(formats) or "neither", "Correct the body"
        )
    by_row = formats == ["instances"]
    values = content[formats[0]]
    columns = _columns_of_rows(values, specs) if by_row else _columns(values, specs)
    return PredictRequest(name, arrays_of(columns, specs), by_row)


def specs_of(name: Any, signatures: Signatures) -> Sequence[TensorSpec]:
    """Returns the inputs of a signature.

    Raises:
        UserError: there is no such signature.
    """
    if not isinstance(name, str) or name not in signatures:
        raise UserError.expected(
            f"a signature_name among {', '.join(sorted(signatures))}", _shown(name), "Correct it"
        )
    return signatures[name]


def arrays_of(columns: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Converts the inputs of a signature to arrays.

    Args:
        columns: nested lists or arrays by name; strings as lists of bytes, or as in JSON.
        specs: the inputs.

    Raises:
        UserError: an input is missing or unknown, or does not fit.
    """
    check_names(columns, specs)
    inputs = {spec.name: _array(columns[spec.name], spec) for spec in specs}
    if len({len(array) for array in inputs.values()}) > 1:
        raise UserError.expected(
            "inputs with the same number of rows",
            ", ".join(f"{name} {len(array)}" for name, array in inputs.items()),
            "Correct the inputs",
        )
    return inputs


def check_names(names: Iterable[str], specs: Sequence[TensorSpec]) -> None:
    """Checks that the inputs of a signature are there, and no others.

    Args:
        names: names of the inputs of a request.
        specs: the inputs of the signature.

    Raises:
        UserError: an input is missing or unknown.
    """
    expected = [spec.name for spec in specs]
    if set(names) != set(expected):
        raise UserError.expected(
            f"inputs with {', '.join(expected)}",
            ", ".join(sorted(names))[:200] or "none",
            "Correct the inputs",
        )


def _columns_of_rows(rows: Any, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    if not isinstance(rows, list) or not rows:
        raise UserError.expected("a list with instances", _shown(rows), "Give at least one")
    names = [spec.name for spec in specs]
    columns: dict[str, list] = {name: [] for name in names}
    for number, row in enumerate(rows):
        row = row if _is_named(row, names) else {names[0]: row} if len(names) == 1 else row
        if not isinstance(row, dict) or row.keys() != set(names):
            found = ", ".join(sorted(row))[:200] if isinstance(row, dict) else _shown(row)
            raise UserError.expected(
                f"instances with {', '.join(names)}",
                f"{found} in instance {number}",
                "Correct the instance",
            )
        for name in names:
            columns[name].append(row[name])
    return columns


def _columns(values: Any, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    names = [spec.name for spec in specs]
    if not _is_named(values, names) and len(names) == 1:
        return {names[0]: values}
    if not isinstance(values, dict):
        expected = f"inputs with {', '.join(names)}"
        raise UserError.expected(expected, _shown(values), "Correct the inputs")
    return values


def _is_named(value: Any, names: Sequence[str]) -> bool:
    """Returns whether a value is an object of tensors by name, and not a single `{"b64": ...}`."""
    return isinstance(value, dict) and (set(value) != {"b64"} or "b64" in names)


def _array(values: Any, spec: TensorSpec) -> np.ndarray:
    """Converts nested lists to an array of the dtype and the shape of an input."""
    if spec.dtype == "string":
        return _strings(values, spec)
    dtype = np.dtype(spec.dtype)
    try:
        array = np.array(values)
    except ValueError as error:
        raise _misfit(spec, "rows of different lengths") from error
    if array.size == 0:
        raise _misfit(spec, f"no values {list(array.shape)}")
    if array.dtype.kind not in {"f": "fiu", "i": "iu", "b": "b"}[dtype.kind]:
        raise _misfit(spec, _shown(values))
    if array.ndim != len(spec.shape):
        raise _misfit(spec, f"an array of shape {list(array.shape)}")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    exact = dtype.kind == "f" or (converted == array).all()
    if not exact or not np.isfinite(converted).all():
        raise _misfit(spec, f"a value that {spec.dtype} cannot hold")
    return converted


def _strings(values: Any, spec: TensorSpec) -> np.ndarray:
    if not isinstance(values, list) or not values:
        raise _misfit(spec, _shown(values))
    array = np.empty(len(values), object)
    array[:] = [_bytes(value, spec) for value in values]
    return array


def _bytes(value: Any, spec: TensorSpec) -> bytes:
    if isinstance(value, bytes):  # of a request over gRPC
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict) or set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise UserError.expected(
            f'a string or {{"b64": STRING}} in {spec.name}', _shown(value), "Correct it"
        )
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError.expected("base64 in b64", str(error), "Encode the bytes again") from error


def _misfit(spec: TensorSpec, received: str) -> UserError:
    kind = "strings" if spec.dtype == "string" else _KINDS[np.dtype(spec.dtype).kind]
    shape = ", ".join("any" if size is None else _size(size) for size in spec.shape)
    return UserError.expected(
        f"{kind} of shape [{shape}] in {spec.name}", received, "Correct the input"
    )


def _size(size: int | tuple[int, int]) -> str:
    return f"{size[0]} to {size[1]}" if isinstance(size, tuple) else str(size)


def _shown(value: Any) -> str:
    try:
        text = to_json(value)
    except RecursionError:
        return "lists or objects inside of each other, too deep to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def predict_answer(outputs: Mapping[str, np.ndarray], by_row: bool) -> dict:
    """Converts the outputs of a model to the JSON object of an answer.

    Strings are text, or `{"b64": ...}` in outputs whose name ends with `_bytes`.

    Args:
        outputs: arrays by name, with the rows first.
        by_row: whether to use the row format.
    """
    columns = {name: _values(name, array) for name, array in outputs.items()}
    if not by_row:
        return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _values(name: str, array: np.ndarray) -> list:
    if array.dtype.kind not in "OS":
        return array.tolist()

    def text(value: Any) -> Any:
        if isinstance(value, list):
            return [text(x) for x in value]
        raw = value if isinstance(value, bytes) else str(value).encode()
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(raw).decode("ascii")}
        return raw.decode("utf-8", "replace")

    return text(array.tolist())


def status_answer(versions: Mapping[int, str]) -> dict:
    """Returns the answer about the state of a model.

    Args:
        versions: state of each version: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
    """
    status = {"error_code": "OK", "error_message": ""}
    return {
        "model_version_status": [
            {"version": str(version), "state": state, "status": status}
            for version, state in sorted(versions.items(), reverse=True)
        ]
    }


def metadata_answer(name: str, version: int, signatures: Signatures) -> dict:
    """Returns the answer about the signatures of a model.

    The outputs of signatures are not listed, since converted models do not describe them.
    """
    described = {
        signature: {
            "inputs": {spec.name: _described(spec) for spec in specs},
            "outputs": {},
            "method_name": "tensorflow/serving/predict",
        }
        for signature, specs in signatures.items()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": described}},
    }


def _described(spec: TensorSpec) -> dict:
    sizes = [str(size) if isinstance(size, int) else "-1" for size in spec.shape]
    return {
        "dtype": _TYPES[spec.dtype],
        "tensor_shape": {
            "dim": [{"size": size, "name": ""} for size in sizes],
            "unknown_rank": False,
        },
        "name": spec.name,
    }
