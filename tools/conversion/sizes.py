"""Sizes that inputs are padded to, so that a runtime prepares few shapes."""

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from tools.conversion.protocol import TensorSpec

MOST_SIZES = 24  # of one axis
_OCTAVES = 4  # below the longest length that the first sizes divide finely
_COARSE = 3  # sizes below these octaves, each half of the next
_LEAST_RATIO = 1.05  # of one first size to the next
_ABOVE = 4  # sizes kept for lengths beyond the longest one seen
# Runs of average length that the preparation of one size costs. At batch 1 it is 0.4 for the digits
# model and 3.4 for a wav2vec 2.0 of width 96; a large batch or model costs less.
_PRICE = 1.0  # of sizes for lengths that are announced
_PRICE_OF_CHANGE = 4.0  # of new sizes in place of those that are in use, whose memory they need too
_REMEMBERED = 4096  # lengths
_FIRST_FIT = 16  # lengths seen before the sizes are fitted to them
_NEXT_FIT = 4  # times as many lengths until the next fit
_WORTHWHILE = 0.05  # share of padding that new sizes have to save


class Sizes:
    """The sizes that one free axis is padded to, at most `most` of them.

    The first sizes are geometric. After 16, 64, 256 ... lengths they are fitted to those that were
    seen, if that saves at least 5 % of padding and more than the new sizes cost; or they are fitted
    to lengths that are announced. The decision depends on the lengths alone, never on the clock, so
    that a run repeats exactly.

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

    def padded(self, length: int) -> int:
        """Returns the smallest size that holds a length, and remembers the length."""
        self._seen.append(length)
        self._num_seen += 1
        if self._num_seen == self._next_fit:
            self._next_fit *= _NEXT_FIT
            fitted = self._fitted(self._seen)
            if self._is_worthwhile(fitted):
                self.sizes = fitted
        sizes = self.sizes  # another thread may announce lengths meanwhile
        return int(sizes[np.searchsorted(sizes, length)])

    def expect(self, lengths: Sequence[int]) -> list[int]:
        """Fits the sizes to lengths that will come.

        Args:
            lengths: of the axis, in any order; at least one.

        Returns:
            The sizes that these lengths are padded to, the largest first.
        """
        self.sizes = self._fitted(lengths)
        self._next_fit = max(self._next_fit, _NEXT_FIT * len(lengths))
        used = np.searchsorted(self.sizes, np.unique(lengths))
        return self.sizes[np.unique(used)][::-1].tolist()

    def _is_worthwhile(self, fitted: np.ndarray) -> bool:
        """Tells whether other sizes save more until the next fit than their preparation costs."""
        saved = _padding(self.sizes, self._seen) - _padding(fitted, self._seen)
        total = sum(self._seen)
        used = np.unique(np.searchsorted(fitted, np.unique(self._seen)))
        new = len(set(fitted[used].tolist()) - set(self.sizes.tolist()))
        cost = _PRICE_OF_CHANGE * new * total / len(self._seen)
        return saved > _WORTHWHILE * total and (_NEXT_FIT - 1) * saved > cost

    def _fitted(self, lengths: Sequence[int]) -> np.ndarray:
        """Returns sizes for some lengths, and a few for longer ones."""
        longest = max(lengths)
        if longest >= self._high:
            return fitted_sizes(lengths, self._most)
        count = min(_ABOVE, self._most - 1)
        above = _geometric(longest, self._high, count + 1)[1:]
        return np.concatenate([fitted_sizes(lengths, self._most - count), above])


def fitted_sizes(lengths: Sequence[int], most: int) -> np.ndarray:
    """Chooses sizes with the least cost by dynamic programming.

    The cost is the padding, plus `_PRICE` times the mean length for each size: few lengths get few
    sizes, because the preparation of a size takes longer than the padding that it saves.

    Args:
        lengths: to be padded; more than 256 different ones are grouped by quantiles first.
        most: largest number of sizes.

    Returns:
        Ascending sizes; the last one is the longest length.
    """
    lengths = np.sort(np.asarray(lengths, np.int64))
    ends = np.unique(np.quantile(lengths, np.linspace(0, 1, 257), method="higher"))
    counts = np.searchsorted(lengths, ends, side="right")
    sums = np.concatenate([[0], np.cumsum(lengths)])[counts]
    counts, sums = np.concatenate([[0], counts]), np.concatenate([[0], sums])
    # padding[i, j]: of the lengths after candidate i up to candidate j, at the size of j.
    padding = ends * (counts[None, 1:] - counts[:-1, None]) - (sums[None, 1:] - sums[:-1, None])
    padding = np.where(np.tri(len(ends), k=-1, dtype=bool), np.inf, padding)
    costs, origins = [padding[0]], []
    for _ in range(min(most, len(ends)) - 1):
        # One size more: the lengths up to i have theirs, those behind it up to j are padded to j.
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
    """Returns sizes for lengths of which nothing is known: fine for long ones, coarse for short."""
    fine_low = max(low, high >> _OCTAVES)
    coarse = [fine_low >> number for number in range(_COARSE, 0, -1)]
    fine = _geometric(fine_low, high, max(1, most - _COARSE))
    return np.concatenate([[size for size in coarse if size >= low], fine]).astype(np.int64)[-most:]


def _geometric(low: int, high: int, most: int) -> np.ndarray:
    """Returns at most `most` ascending sizes from `low` to `high` at equal ratios."""
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

    A fixed size is padded up to. So is the lower end of a range, of the batch and of what zeros
    behind an input do not change. Where a runtime prepares each new shape, sizes inside a range are
    padded as well: a partial batch to the next power of two, never beyond the largest batch so far,
    and, where zeros behind an input do not change its result, a length to one of a few sizes.

    Args:
        specs: inputs of the signature.
        ranges: whether ranges are padded, not only fixed sizes.
        lengths: whether other axes than the batch may be padded where they have a range.
    """

    def __init__(self, specs: Sequence[TensorSpec], *, ranges: bool, lengths: bool):
        self._specs, self._ranges, self._lengths = specs, ranges, lengths
        self._most_rows = 0
        self._sizes = {
            (spec.name, axis): Sizes(*size)
            for spec in specs
            for axis, size in enumerate(spec.shape)
            if ranges and lengths and axis and isinstance(size, tuple)
        }

    def shapes(self, inputs: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
        """Returns the shape that each input is padded to.

        Args:
            inputs: that fit the signature, but for sizes that are padded up to a lower end.
        """
        shapes = {}
        for name, _, allowed in self._specs:
            shape = np.shape(inputs[name])
            pairs = enumerate(zip(shape, allowed, strict=True))
            shapes[name] = tuple(self._target(name, axis, *pair) for axis, pair in pairs)
        return shapes

    def expect(self, name: str, lengths: Sequence[int]) -> list[int]:
        """Fits the sizes of an input's last axis to lengths that will come.

        Returns:
            The sizes that the lengths are padded to, the largest first; none where that axis is
            not padded.
        """
        found = [sizes for (tensor, _), sizes in self._sizes.items() if tensor == name]
        return found[-1].expect(lengths) if found and len(lengths) else []

    def _target(self, name: str, axis: int, size: int, allowed) -> int:
        if isinstance(allowed, int):
            return allowed
        if isinstance(allowed, tuple) and (self._lengths or not axis):
            size = max(size, allowed[0])
        if (name, axis) in self._sizes:
            return self._sizes[name, axis].padded(size)
        if axis or not self._ranges or not isinstance(allowed, tuple):
            return size
        self._most_rows = max(self._most_rows, size)
        return min(1 << max(0, size - 1).bit_length(), self._most_rows)
