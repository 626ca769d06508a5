"""Which sounds an exported Conformer takes."""

import pytest

from conformer.session import limits_of
from tools.inference.options import RunnerOptions

PIPELINE = {"sample_rate_hz": 8000, "min_seconds": 0.2, "max_seconds": 33.0}


@pytest.mark.parametrize(("max_seconds", "longest"), [(None, 33.0), (5.0, 5.0)])
def test_the_limits_are_those_the_model_was_trained_with(max_seconds, longest):
    limits = limits_of(PIPELINE, RunnerOptions(max_seconds=max_seconds))
    assert (limits.rate_hz, limits.min_seconds, limits.max_seconds) == (8000, 0.2, longest)
