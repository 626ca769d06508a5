"""The benchmark of searches: its random model emits at the rate that was asked for."""

import json

import numpy as np
import pytest

from conformer.config import load_config
from tests.support.errors import refused
from tools.benchmark import conformer_decoding as benchmark
from tools.inference.runner import load


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    sizes = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "prediction_dim": 32}
    sizes |= {"joint_dim": 32, "kernel_size": 3}
    config = load_config(None, {f"model.{name}": size for name, size in sizes.items()})
    folder = tmp_path_factory.mktemp("decoding") / "m"
    benchmark.write_random_model(folder, config)
    return load(folder)


def test_the_random_model_emits_at_the_rate_and_all_searches_are_timed(runner, tmp_path):
    call = benchmark.Counted(runner)
    fusion = benchmark.language_model(runner.pipeline, tmp_path, 50)
    searches = benchmark.searches_of(runner, call, 4, fusion)
    samples = 2 * runner.pipeline["sample_rate_hz"]
    waveforms = np.random.default_rng(0).normal(0, 0.1, (2, samples)).astype("float32")
    inputs = {"waveforms": waveforms, "lengths": np.full(2, samples, np.int32)}

    def in_turn(sides):
        return {name: {"median_ms": 1e3 * run()} for name, run in sides.items()}

    row = benchmark.measure(runner, call, searches, inputs, in_turn=in_turn, tokens_per_second=5.0)
    found = row["searches"]
    assert set(found) == set(searches)
    assert found["greedy"]["tokens"] == found["beam 4"]["tokens"] == 2 * 2 * 5
    for one in found.values():
        assert one["whole_ms"] == pytest.approx(row["encoder_ms"] + one["search_ms"])
        assert one["share_of_search"] == pytest.approx(one["search_ms"] / one["whole_ms"])
        assert one["rtfx"] == pytest.approx(4e3 / one["whole_ms"])
        assert one["steps"] > 10
    json.dumps(row)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loop=0"], "--loop >= 1"),
        (["--tokens_per_second=0"], "--tokens_per_second > 0"),
        (["--seconds=1,x"], "--seconds like 10,5,20"),
        (["--seconds=90"], "--seconds like 10,5,20"),
        (["--batch_sizes=0"], "--batch_sizes like 1,8"),
        (["--beam_width=0"], "--beam_width of 1 to 2000"),
        (["x"], "flags alone"),
    ],
)
def test_bad_flags_are_refused(flags, message):
    with refused(message):
        benchmark.main(flags)
