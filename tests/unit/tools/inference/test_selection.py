"""Shares and numbers of a data set, spread over the whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.errors import refused
from tools.inference.selection import share, spread


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 250))
def test_a_spread_has_equal_distances_over_the_whole(length, count):
    chosen = spread(range(length), count)
    assert len(chosen) == min(count, length)
    distances = [b - a for a, b in zip(chosen, [*chosen[1:], length], strict=True)]
    assert chosen[0] == 0
    assert min(distances) >= 1
    assert max(distances) - min(distances) <= 1


@pytest.mark.parametrize(
    ("ratio", "chosen"),
    [(1.0, "abcdefghij"), (0.5, "acegi"), (0.2, "af"), (0.26, "adg"), (0.01, "a")],
)
def test_a_share_of_a_data_set_is_spread_over_it(ratio, chosen):
    assert "".join(share("abcdefghij", ratio)) == chosen


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, float("nan")])
def test_shares_that_cannot_be_are_refused(ratio):
    with refused("--data_ratio above 0 and up to 1"):
        share("abc", ratio)
