"""Chooses sizes to which inputs are padded, so that a runtime prepares few shapes."""

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from tools.conversion.protocol import TensorSpec

MOST_SIZES = 24  # largest number of sizes of an axis
_OCTAVES = 4  # octaves below the longest length with fine first sizes
_COARSE = 3  # number of sizes below these octaves, one for each octave
_LEAST_RATIO = 1.05  # smallest ratio of neighboring first sizes
_ABOVE = 4  # number of sizes for lengths above the longest known length
# Cost of the preparation of a size, in runs of average length. Measured at batch 1: 0.4 for the
# digits model, 3.4 for a wav2vec 2.0 of width 96; less for larger batches and models.
_PRICE = 1.0  # cost of a size for announced lengths
_PRICE_OF_CHANGE = 4.0  # cost of a size that replaces others, which still occupy memory
_REMEMBERED = 4096  # number of lengths
_FIRST_FIT = 16  # number of lengths before the first fit
_NEXT_FIT = 4  # factor on the number of lengths for the next fit
_WORTHWHILE = 0.05  # share of the total length that new sizes must save


class Sizes:
    """Sizes to which a free axis is padded.

    The first sizes are geometric. After 16, 64, 256 ... lengths, they are fitted to these lengths
    if this saves more than 5 % of the total length, and more than the preparation of the new sizes
    costs. Announced lengths are always fitted. The decision does not depend on time, so that a run
    is reproducible.

    Args:
        low: smallest length of the axis.
        high: largest length of the axis.
        most: largest number of sizes.
    """

    def __init__(self, low: int, high: int, most: int = MOST_SIZES):
        self._high, self._most = high, most
        self.sizes = _first_sizes(low, high, most)
        self._seen: deque[int] = deque(maxlen=_REMEMBERED)
        self._num_seen, self._next_fit = 0, _FIRST_FIT

    def padded(self, length: int, num_shapes: int = 1) -> int:
        """Returns the smallest size for a length, and stores the length for the next fit.

        Args:
            length: length from `low` to `high`.
            num_shapes: number of shapes with the same size that the runtime prepares, such as one
                for each number of rows.
        """
        self._seen.append(length)
        self._num_seen += 1
        if self._num_seen == self._next_fit:
            self._next_fit *= _NEXT_FIT
            fitted = self._fitted(self._seen)
            if self._is_worthwhile(fitted, num_shapes):
                self.sizes = fitted
        sizes = self.sizes  # read once, because another thread may replace it
        return int(sizes[np.searchsorted(sizes, length)])

    def expect(self, lengths: Sequence[int]) -> list[int]:
        """Fits the sizes to announced lengths.

        Args:
            lengths: lengths of the axis in any order; at least one.

        Returns:
            The sizes to which these lengths are padded, in descending order.
        """
        self.sizes = self._fitted(lengths)
        self._next_fit = max(self._next_fit, _NEXT_FIT * len(lengths))
        used = np.searchsorted(self.sizes, np.unique(lengths))
        return self.sizes[np.unique(used)][::-1].tolist()

    def _is_worthwhile(self, fitted: np.ndarray, num_shapes: int) -> bool:
        """Returns whether other sizes save more until the next fit than their preparation costs."""
        saved = _padding(self.sizes, self._seen) - _padding(fitted, self._seen)
        total = sum(self._seen)
        used = np.unique(np.searchsorted(fitted, np.unique(self._seen)))
        new = len(set(fitted[used].tolist()) - set(self.sizes.tolist()))
        cost = _PRICE_OF_CHANGE * new * num_shapes * total / len(self._seen)
        return saved > _WORTHWHILE * total and (_NEXT_FIT - 1) * saved > cost

    def _fitted(self, lengths: Sequence[int]) -> np.ndarray:
        """Returns sizes for the given lengths, and a few sizes for longer ones."""
        longest = max(lengths)
        if longest >= self._high:
            return fitted_sizes(lengths, self._most)
        count = min(_ABOVE, self._most - 1)
        above = _geometric(longest, self._high, count + 1)[1:]
        return np.concatenate([fitted_sizes(lengths, self._most - count), above])


def fitted_sizes(lengths: Sequence[int], most: int) -> np.ndarray:
    """Chooses the sizes with the lowest cost by dynamic programming.

    The cost is the total padding, plus `_PRICE` times the mean length for each size. Therefore few
    lengths get few sizes.

    Args:
        lengths: lengths to pad. More than 256 different lengths are grouped by quantiles first.
        most: largest number of sizes.

    Returns:
        Ascending sizes; the last one is the longest length.
    """
    lengths = np.sort(np.asarray(lengths, np.int64))
    ends = np.unique(np.quantile(lengths, np.linspace(0, 1, 257), method="higher"))
    counts = np.searchsorted(lengths, ends, side="right")
    sums = np.concatenate([[0], np.cumsum(lengths)])[counts]
    counts, sums = np.concatenate([[0], counts]), np.concatenate([[0], sums])
    # padding[i, j] is the padding of the lengths after candidate i up to candidate j to size j.
    padding = ends * (counts[None, 1:] - counts[:-1, None]) - (sums[None, 1:] - sums[:-1, None])
    padding = np.where(np.tri(len(ends), k=-1, dtype=bool), np.inf, padding)
    costs, origins = [padding[0]], []
    for _ in range(min(most, len(ends)) - 1):
        # Adds a size: lengths up to i use the sizes before, lengths after i are padded to j.
        through = costs[-1][:-1, None] + padding[1:]
        origins.append(through.argmin(axis=0))
        costs.append(through.min(axis=0))
    price = _PRICE * lengths.mean()
    best = int(np.argmin([cost[-1] + price * number for number, cost in enumerate(costs)]))
    chosen = [len(ends) - 1]
    for origin in reversed(origins[:best]):
        chosen.append(int(origin[chosen[-1]]))
    return ends[chosen[::-1]]


def _first_sizes(low: int, high: int, most: int) -> np.ndarray:
    """Returns sizes for unknown lengths: fine for long ones, coarse for short ones."""
    fine_low = max(low, high >> _OCTAVES)
    coarse = [fine_low >> number for number in range(_COARSE, 0, -1)]
    fine = _geometric(fine_low, high, max(1, most - _COARSE))
    return np.concatenate([[size for size in coarse if size >= low], fine]).astype(np.int64)[-most:]


def _geometric(low: int, high: int, most: int) -> np.ndarray:
    """Returns at most `most` ascending sizes from `low` to `high` with equal ratios."""
    if most == 1:
        return np.array([high])
    most = min(most, 2 + int(math.log(high / low) / math.log(_LEAST_RATIO)))
    sizes = np.geomspace(low, high, most)
    return np.unique(np.ceil(sizes - 1e-6).astype(np.int64).clip(low, high))


def _padding(sizes: np.ndarray, lengths: Sequence[int]) -> int:
    lengths = np.asarray(lengths)
    return int((sizes[np.searchsorted(sizes, lengths)] - lengths).sum())


class Padding:
    """Decides the shapes that the batches of one signature are padded to.

    Inputs are padded to fixed sizes, and at least to the lower end of a range. If the runtime
    prepares each new shape, inputs are also padded inside a range: partial batches to a power of
    two, but not above the largest batch so far, and lengths to one of a few sizes. Lengths with a
    range are padded only if the padding does not change the result.

    Args:
        specs: inputs of the signature.
        ranges: whether to pad inside a range.
        lengths: whether padding of the axes behind the batch leaves the result unchanged.
    """

    def __init__(self, specs: Sequence[TensorSpec], *, ranges: bool, lengths: bool):
        self._specs, self._ranges, self._lengths = specs, ranges, lengths
        self._most_rows = 0
        self._row_counts: set[int] = set()
        self._sizes = {
            (spec.name, axis): Sizes(*size)
            for spec in specs
            for axis, size in enumerate(spec.shape)
            if ranges and lengths and axis and isinstance(size, tuple)
        }

    def shapes(self, inputs: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
        """Returns the shape to which each input is padded.

        Args:
            inputs: arrays by name, in the shapes that `check_inputs` allows with `pads`.
        """
        shapes = {}
        for name, _, allowed in self._specs:
            shape = np.shape(inputs[name])
            pairs = enumerate(zip(shape, allowed, strict=True))
            shapes[name] = tuple(self._target(name, axis, *pair) for axis, pair in pairs)
        return shapes

    def expect(self, name: str, lengths: Sequence[int]) -> list[int]:
        """Fits the sizes of an input's last axis to announced lengths.

        Args:
            name: name of the input.
            lengths: lengths of its last axis.

        Returns:
            The sizes to which the lengths are padded, in descending order; empty if the axis is not
            padded.
        """
        found = [sizes for (tensor, _), sizes in self._sizes.items() if tensor == name]
        return found[-1].expect(lengths) if found and len(lengths) else []

    def _target(self, name: str, axis: int, size: int, allowed) -> int:
        if isinstance(allowed, int):
            return allowed
        if isinstance(allowed, tuple) and (self._lengths or not axis):
            size = max(size, allowed[0])
        if (name, axis) in self._sizes:
            return self._sizes[name, axis].padded(size, max(1, len(self._row_counts)))
        if axis or not self._ranges or not isinstance(allowed, tuple):
            return size
        self._most_rows = max(self._most_rows, size)
        rows = min(1 << max(0, size - 1).bit_length(), self._most_rows)
        self._row_counts.add(rows)
        return rows
