"""Dim ranges: the shapes that one converted model serves, read, checked and padded to."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from tools.conversion.protocol import TensorSpec
from tools.conversion.request import DimRanges
from tools.errors import UserError

_FORM = '"waveforms=1:8,16000:560000", several tensors with ";" between them'
_TENSOR = re.compile(r"\s*(\w+)\s*=\s*(\d+\s*(?::\s*\d+)?(?:\s*,\s*\d+\s*(?::\s*\d+)?)*)\s*")


def parse_dim_ranges(text: str) -> DimRanges:
    """Reads the flag `--dim_range`; a single number stands for a fixed size.

    Raises:
        UserError: it has another form, or a range that ends before it begins.
    """
    ranges = {}
    for part in filter(str.strip, text.split(";")):
        found = _TENSOR.fullmatch(part)
        if found is None or found[1] in ranges:
            raise UserError.expected(f"--dim_range {_FORM}", part.strip(), "Correct --dim_range")
        ends = [[int(end) for end in one.split(":")] for one in found[2].split(",")]
        ranges[found[1]] = tuple((pair[0], pair[-1]) for pair in ends)
        if any(not 1 <= low <= high for low, high in ranges[found[1]]):
            raise UserError.expected(
                "--dim_range with 1 <= low <= high", part.strip(), "Correct --dim_range"
            )
    if not ranges:
        raise UserError.expected(f"--dim_range {_FORM}", repr(text), "Correct --dim_range")
    return ranges


def bounded(specs: Sequence[TensorSpec], ranges: DimRanges) -> tuple[TensorSpec, ...]:
    """Puts ranges on the free dimensions of a signature's inputs.

    The first free dimension of every input is the batch: a range that one tensor has for it holds
    for all of them.

    Args:
        specs: inputs with free dimensions.
        ranges: for at least every tensor with another free dimension than the batch.

    Raises:
        UserError: a tensor that is not there, or another number of ranges than free dimensions.
    """
    names = {spec.name for spec in specs}
    unknown = sorted(ranges.keys() - names)
    if unknown:
        raise UserError.expected(
            f"a tensor among {', '.join(sorted(names))}", unknown[0], "Correct --dim_range"
        )
    batch = next((of[0] for name, of in sorted(ranges.items()) if name in names), None)
    result = []
    for spec in specs:
        num_free = spec.shape.count(None)
        given = ranges.get(spec.name, (batch,) if batch and num_free == 1 else ())
        if len(given) != num_free:
            raise UserError.expected(
                f"{num_free} ranges for {spec.name} of shape {show_shape(spec.shape)}",
                len(given),
                f"Give --dim_range {_FORM}",
            )
        rest = iter(given)
        shape = tuple(next(rest) if size is None else size for size in spec.shape)
        result.append(spec._replace(shape=tuple(_single(size) for size in shape)))
    return tuple(result)


def _single(size):
    """A range of one size is that size."""
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


def show_shape(shape: Sequence) -> str:
    """Writes a shape as `[1:8, 16000:560000, 80]`, `?` where a dimension is free."""
    sizes = (f"{x[0]}:{x[1]}" if isinstance(x, tuple) else "?" if x is None else x for x in shape)
    return f"[{', '.join(map(str, sizes))}]"


def check_inputs(
    inputs: Mapping[str, np.ndarray],
    specs: Sequence[TensorSpec],
    *,
    pads: bool = False,
    pads_lengths: bool = False,
) -> None:
    """Compares arrays with what a model takes.

    Args:
        inputs: by name.
        specs: of a signature.
        pads: whether sizes below a fixed one, and batches below their range, are padded up to it.
        pads_lengths: whether other sizes below their range are padded up to it as well.

    Raises:
        UserError: a tensor is missing, unknown, no array, of another type, or of a shape outside
            the range, or two tensors are of different batches.
    """
    mapped = isinstance(inputs, Mapping)
    if not mapped or inputs.keys() != {spec.name for spec in specs}:
        raise UserError.expected(
            f"the inputs {', '.join(spec.name for spec in specs)}",
            (", ".join(map(str, inputs)) or "none") if mapped else type(inputs).__name__,
            "Name every one of them",
        )
    arrays = {name: _array(name, value) for name, value in inputs.items()}
    # The tensor of most dimensions first: its range tells most.
    for name, dtype, shape in sorted(specs, key=lambda spec: -len(spec.shape)):
        array = arrays[name]
        same_rank = array.ndim == len(shape)
        padded = [
            pads and (pads_lengths or not axis or isinstance(size, int))
            for axis, size in enumerate(shape)
        ]
        if not same_rank or not all(map(_fits, array.shape, shape, padded)):
            ranged = same_rank and (pads or any(isinstance(size, tuple) for size in shape))
            raise UserError.expected(
                f"{name} of shape {show_shape(shape)}",
                show_shape(array.shape),
                "Convert again with a --dim_range that holds it, or change the input"
                if ranged
                else "Change the input",
            )
        if not _is_of(array, dtype):
            raise UserError.expected(f"{name} of type {dtype}", array.dtype, "Cast it")
    if not _one_batch(arrays, specs):
        shapes = ", ".join(f"{name} {show_shape(array.shape)}" for name, array in arrays.items())
        raise UserError.expected("inputs of one batch", shapes, "Give as many rows of each")


def fit(inputs: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> bool:
    """Tells, faster than `check_inputs`, whether arrays are what a model takes.

    False where only `check_inputs` can tell: of tensors of a framework, and of strings.
    """
    if not isinstance(inputs, dict) or len(inputs) != len(specs):
        return False
    for name, dtype, shape in specs:
        array = inputs.get(name)
        if not isinstance(array, np.ndarray) or array.ndim != len(shape):
            return False
        if dtype == "string" or array.dtype != dtype:
            return False
        for size, allowed in zip(array.shape, shape, strict=True):
            if not _fits(size, allowed):
                return False
    return _one_batch(inputs, specs)


def _array(name: str, value: object) -> np.ndarray:
    """An array, or a framework's tensor as one."""
    if not hasattr(value, "__array__"):
        raise UserError.expected(
            f"{name} as an array", type(value).__name__, "Give an array of NumPy"
        )
    return np.asarray(value)


def _is_of(array: np.ndarray, dtype: str) -> bool:
    if dtype != "string":
        return array.dtype.name == dtype
    texts = array.dtype.kind == "O" and all(isinstance(x, bytes | str) for x in array.flat)
    return texts or array.dtype.kind in "SU"


def _one_batch(inputs: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> bool:
    """Whether all inputs that allow the batches of the first one have as many rows as it has."""
    allowed = [spec.shape[0] for spec in specs if spec.shape]
    rows = {len(inputs[x.name]) for x in specs if x.shape and x.shape[0] == allowed[0]}
    return len(rows) <= 1


def _fits(size: int, allowed: int | tuple[int, int] | None, pads: bool = False) -> bool:
    low, high = allowed if isinstance(allowed, tuple) else (allowed, allowed)
    if pads:
        low = min(low, 1) if isinstance(allowed, tuple) else 0
    return allowed is None or low <= size <= high


def pad_to(
    inputs: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence]
) -> dict[str, np.ndarray]:
    """Pads arrays with zeros at their ends.

    An array that is larger than its shape stays as it is.

    Args:
        inputs: by name.
        shapes: by name; an entry that is not an integer (a range, None) leaves its axis as it is.
    """
    padded = {}
    for name, array in inputs.items():
        array = np.asarray(array)
        missing = [
            (0, max(0, wanted - size) if isinstance(wanted, int) else 0)
            for size, wanted in zip(array.shape, shapes.get(name, ()), strict=False)
        ]
        grows = len(missing) == array.ndim and any(after for _, after in missing)
        padded[name] = np.pad(array, missing) if grows else array
    return padded


def shapes_of(specs: Sequence[TensorSpec]) -> dict[str, tuple]:
    """Returns the shapes of a signature's inputs by name."""
    return {spec.name: spec.shape for spec in specs}
