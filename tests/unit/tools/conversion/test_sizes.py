"""Sizes that lengths are padded to: few, with little padding, and the cheapest there are."""

import itertools

import numpy as np
import pytest

from tools.conversion import sizes
from tools.conversion.protocol import TensorSpec
from tools.conversion.sizes import MOST_SIZES, Padding, Sizes, fitted_sizes


def padding(chosen, lengths):
    return sum(min(size for size in chosen if size >= length) - length for length in lengths)


def cost(chosen, lengths):
    return padding(chosen, lengths) + sizes._PRICE * np.mean(lengths) * (len(chosen) - 1)


@pytest.mark.parametrize("seed", range(40))
def test_fitted_sizes_are_the_cheapest_of_all(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, rng.integers(1, 9)).tolist()
    most = int(rng.integers(1, 5))
    *others, longest = sorted(set(lengths))
    choices = itertools.chain(*(itertools.combinations(others, n) for n in range(most)))
    best = min(cost([*some, longest], lengths) for some in choices)
    found = fitted_sizes(lengths, most).tolist()
    assert found == sorted(set(found)) and found[-1] == longest and len(found) <= most
    assert cost(found, lengths) == pytest.approx(best)


def test_many_lengths_are_grouped_and_still_padded_little():
    lengths = np.random.default_rng(0).integers(20000, 320000, 5000)
    found = fitted_sizes(lengths, MOST_SIZES)
    assert len(found) == MOST_SIZES and found[-1] == lengths.max()
    assert padding(found, lengths) < 0.05 * lengths.sum()


@pytest.mark.parametrize(("low", "high"), [(400, 560000), (2, 100), (1, 1), (7, 9), (16000, 17000)])
def test_first_sizes_are_few_and_hold_every_length(low, high):
    found = Sizes(low, high).sizes
    assert 1 <= len(found) <= MOST_SIZES
    assert found[0] >= low and found[-1] == high and (np.diff(found) > 0).all()
    for length in {low, high, (low + high) // 2, max(low, 3 * high // 16)}:
        size = Sizes(low, high).padded(length)
        assert length <= size <= high
        if length >= high // 16:
            assert size <= 1.2 * length + 1


def test_sizes_move_to_the_lengths_seen_and_stay_while_they_fit():
    lengths = np.random.default_rng(0).integers(105000, 107000, 500).tolist()
    followed = Sizes(400, 560000)
    first = followed.sizes.tolist()
    before = [followed.padded(length) for length in lengths[:63]]
    assert followed.sizes.tolist() == first, "16 lengths save less than new sizes cost"
    followed.padded(lengths[63])
    fitted = followed.sizes.tolist()
    assert fitted != first and len(fitted) <= MOST_SIZES and fitted[-1] == 560000
    after = [followed.padded(length) for length in lengths[:63]]
    assert all(size >= length for size, length in zip(after, lengths, strict=False))
    assert sum(after) < 0.97 * sum(before)
    for length in lengths:
        followed.padded(length)
    assert followed.sizes.tolist() == fitted, "new sizes would save less than 5 %"


def test_announced_lengths_give_the_sizes_in_use_and_room_for_longer_ones():
    followed = Sizes(400, 560000)
    used = followed.expect([50000, 40000, 40000, 50000] * 10)
    assert used == [50000, 40000]
    assert followed.padded(45000) == 50000
    assert len(followed.sizes) <= MOST_SIZES and followed.padded(555000) == 560000
    assert followed.expect([560000]) == [560000]


def test_one_length_alone_is_soon_not_padded():
    followed = Sizes(400, 560000)
    found = [followed.padded(150000) for _ in range(70)]
    assert found[0] > 150000 and found[64:] == [150000] * 6
    assert followed.padded(300000) >= 300000


def test_lengths_of_all_kinds_keep_the_first_sizes():
    """Other sizes would save a part of their cost, and need memory beside those in use."""
    followed = Sizes(400, 560000)
    first = followed.sizes.tolist()
    for length in np.random.default_rng(0).integers(16000, 240000, 1500).tolist():
        followed.padded(length)
    assert followed.sizes.tolist() == first


@pytest.mark.parametrize(
    ("rows", "stays"), [((1,), False), ((16,), False), ((1, 2, 4, 8, 16), True)]
)
def test_sizes_that_every_number_of_rows_needs_cost_more(rows, stays):
    spec = TensorSpec("waveforms", "float32", ((1, 64), (400, 960000)))
    padding = Padding([spec], ranges=True, lengths=True)
    rng, found = np.random.default_rng(0), []
    for length in np.geomspace(4800, 128000, 64)[rng.integers(0, 64, 300)].astype(int):
        inputs = {"waveforms": np.empty((rng.choice(rows), length), np.int8)}
        found.append(padding.shapes(inputs)["waveforms"][1])
    first = set(found[:200])
    assert (set(found[260:]) <= first) == stays
