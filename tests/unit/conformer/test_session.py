"""Tests which sounds an exported Conformer accepts."""

import json

import pytest

from conformer.session import limits_of, session_limits
from tests.support.errors import refused
from tools.inference.options import RunnerOptions

PIPELINE = {"sample_rate_hz": 8000, "min_seconds": 0.2, "max_seconds": 33.0}


@pytest.mark.parametrize(("max_seconds", "longest"), [(None, 33.0), (5.0, 5.0)])
def test_the_limits_are_those_the_model_was_trained_with(max_seconds, longest):
    limits = limits_of(PIPELINE, RunnerOptions(max_seconds=max_seconds))
    assert (limits.rate_hz, limits.min_seconds, limits.max_seconds) == (8000, 0.2, longest)


@pytest.fixture
def model(tmp_path):
    """Returns the description of a model for at most 33 s at 8 kHz."""
    convert = {"listen": {"dim_range": {"waveforms": [[200, 33 * 8000]]}}}
    described = {**PIPELINE, "family": "conformer", "convert": convert}
    (tmp_path / "assets").mkdir()
    (tmp_path / "saved_model.pb").touch()
    (tmp_path / "assets" / "pipeline.json").write_text(json.dumps(described))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "longest"),
    [
        ({}, 33),
        ({"enable_dim_range": False}, 33),
        ({"dim_range": "encoded=1:4,1"}, 33),
        ({"dim_range": "waveforms=1:4,200:400000"}, 50),
        ({"dim_range": "waveforms=2,16000"}, 2),
        ({"run_eagerly": True}, None),
    ],
)
def test_a_limit_beyond_what_the_model_takes_is_refused(model, options, longest):
    most = longest or 1e9
    assert session_limits(model, RunnerOptions(max_seconds=most, **options)).max_seconds == most
    if longest:
        with refused(f"--max_seconds up to {longest}, which the model takes. Received: "):
            session_limits(model, RunnerOptions(max_seconds=longest + 0.01, **options))


@pytest.mark.parametrize(("size", "longest"), [([200, 80000], 10), (24000, 3)])
def test_a_converted_model_takes_what_it_was_converted_for(model, size, longest):
    inputs = [["lengths", "int32", [[1, 2]]], ["waveforms", "float32", [[1, 2], size]]]
    signatures = {"join": {"inputs": []}, "listen": {"inputs": inputs}}
    (model / "manifest.json").write_text(json.dumps({"signatures": signatures}))
    (model / "assets" / "pipeline.json").rename(model / "pipeline.json")
    assert session_limits(model, RunnerOptions(max_seconds=longest)).max_seconds == longest
    with refused(f"--max_seconds up to {longest}, which"):
        session_limits(model, RunnerOptions(max_seconds=longest + 0.01))
