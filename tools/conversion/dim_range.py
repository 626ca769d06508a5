"""Dim ranges: the shapes that a converted model accepts. Reads, checks and applies them."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from tools.amounts import counted
from tools.conversion.protocol import LENGTHS, TensorSpec
from tools.conversion.request import DimRanges
from tools.errors import UserError

_FORM = '"waveforms=1:8,16000:560000", several tensors with ";" between them'
_TENSOR = re.compile(r"\s*(\w+)\s*=\s*(\d+\s*(?::\s*\d+)?(?:\s*,\s*\d+\s*(?::\s*\d+)?)*)\s*")


def parse_dim_ranges(text: str) -> DimRanges:
    """Parses the flag `--dim_range`. A single number is a fixed size.

    Args:
        text: ranges by tensor, such as "waveforms=1:8,16000:560000".

    Raises:
        UserError: the text has another form, or a range has its upper end below its lower end.
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
    """Replaces the free dimensions of a signature's inputs by ranges.

    The first free dimension of each input is the batch. All inputs have the same range of batches.

    Args:
        specs: inputs with free dimensions.
        ranges: ranges by tensor, of its free dimensions or of all; required for each tensor with
            free dimensions behind the batch.

    Returns:
        The inputs, with a size or a range for each dimension.

    Raises:
        UserError: a tensor does not exist, or the number of ranges is not the number of free
            dimensions.
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
        if len(given) == len(spec.shape):  # all dimensions, of which the fixed ones must agree
            pairs = list(zip(given, spec.shape, strict=True))
            if all(size is None or pair == (size, size) for pair, size in pairs):
                given = tuple(pair for pair, size in pairs if size is None)
        if len(given) != num_free:
            raise UserError.expected(
                f"{counted(num_free, 'range')} for {spec.name} of shape {show_shape(spec.shape)}",
                len(given),
                f"Give --dim_range {_FORM}",
            )
        rest = iter(given)
        shape = tuple(next(rest) if size is None else size for size in spec.shape)
        result.append(spec._replace(shape=tuple(_single(size) for size in shape)))
    return tuple(result)


def _single(size):
    """Returns the size of a range that has one size; returns others unchanged."""
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


def show_shape(shape: Sequence) -> str:
    """Returns a shape as text, such as `[1:8, 16000:560000, 80]`, with `?` for a free dimension."""
    sizes = (f"{x[0]}:{x[1]}" if isinstance(x, tuple) else "?" if x is None else x for x in shape)
    return f"[{', '.join(map(str, sizes))}]"


def check_inputs(
    inputs: Mapping[str, np.ndarray],
    specs: Sequence[TensorSpec],
    *,
    pads: bool = False,
    pads_lengths: bool = False,
) -> None:
    """Checks that arrays fit a signature.

    Args:
        inputs: arrays by name.
        specs: inputs of the signature.
        pads: whether smaller arrays are allowed because they are padded later. This holds for fixed
            sizes and for the batch.
        pads_lengths: whether it also holds for other axes with a range.

    Raises:
        UserError: an input is missing or unknown, is not an array, or has the wrong type or shape;
            two inputs differ in the number of rows; or `lengths` are outside of what they measure.
    """
    mapped = isinstance(inputs, Mapping)
    if not mapped or inputs.keys() != {spec.name for spec in specs}:
        raise UserError.expected(
            f"the inputs {', '.join(spec.name for spec in specs)}",
            (", ".join(map(str, inputs)) or "none") if mapped else type(inputs).__name__,
            "Name every one of them",
        )
    arrays = {name: _array(name, value) for name, value in inputs.items()}
    # The tensor with the most dimensions first, because its range is the most helpful in a message.
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
    wrong = _wrong_length(arrays, specs)
    if wrong is not None:
        length, size, name = wrong
        raise UserError.expected(
            f"{LENGTHS} from 0 to {size}, the size of {name}", length, "Correct the lengths"
        )


def fit(inputs: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> bool:
    """Returns whether arrays fit a signature; faster than `check_inputs`.

    Returns False for strings and for tensors of a framework, which only `check_inputs` can check.

    Args:
        inputs: arrays by name.
        specs: inputs of the signature.
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
    return _one_batch(inputs, specs) and _wrong_length(inputs, specs) is None


def _array(name: str, value: object) -> np.ndarray:
    """Returns an array, or the tensor of a framework as an array."""
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
    """Returns whether all inputs with the same range of batches have the same number of rows."""
    allowed = [spec.shape[0] for spec in specs if spec.shape]
    rows = {len(inputs[x.name]) for x in specs if x.shape and x.shape[0] == allowed[0]}
    return len(rows) <= 1


def _wrong_length(
    inputs: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]
) -> tuple[int, int, str] | None:
    """Returns a length below 0 or above the size of the other input, this size and its name.

    Returns None if all lengths are right, or if the signature has other inputs than `lengths` and
    one input with these lengths.
    """
    lengths = inputs.get(LENGTHS)
    if lengths is None or len(specs) != 2 or not lengths.size:
        return None
    ((name, _, shape),) = (spec for spec in specs if spec.name != LENGTHS)
    if len(shape) < 2:
        return None
    size, low, high = inputs[name].shape[1], int(lengths.min()), int(lengths.max())
    if 0 <= low <= high <= size:
        return None
    return low if low < 0 else high, size, name


def _fits(size: int, allowed: int | tuple[int, int] | None, pads: bool = False) -> bool:
    low, high = allowed if isinstance(allowed, tuple) else (allowed, allowed)
    if pads:
        low = min(low, 1) if isinstance(allowed, tuple) else 0
    return allowed is None or low <= size <= high


def pad_to(
    inputs: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence]
) -> dict[str, np.ndarray]:
    """Pads arrays with zeros at the end of each axis.

    Args:
        inputs: arrays by name.
        shapes: shapes by name. An axis is not padded if its entry is not an integer, or if it is
            larger than its entry.

    Returns:
        The padded arrays by name.
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
