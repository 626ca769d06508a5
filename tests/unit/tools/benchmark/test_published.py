"""The benchmark of published Conformers: its models, its count of steps, and its flags."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from conformer.piece_tokenizer import read_pieces
from conformer.published import read_published
from conformer.published_config import read_published_config
from conformer.signatures import Signatures, pipeline_description
from tests.support.errors import refused
from tools.benchmark import published as benchmark
from tools.benchmark.published_models import SIZES, descriptions, made_sounds, write_source
from tools.memory import anonymous_bytes


class Runner:
    """The signatures that the count of steps runs, of a model in memory."""

    def __init__(self, source):
        published = read_published(source)
        config, tokenizer, model = published.config, published.tokenizer, published.build()
        self.functions = Signatures(model, tokenizer.surfaces, config).functions
        self.pipeline = pipeline_description(config, tokenizer, model)

    def run(self, inputs, signature):
        found = self.functions[signature](**{name: tf.constant(x) for name, x in inputs.items()})
        return {name: x.numpy() for name, x in found.items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "source"
    write_source(folder, "tiny")
    return folder


def test_a_random_model_writes_tokens_now_and_then(source):
    sound = made_sounds(1, 12.0)[0]
    steps = benchmark.search_steps(Runner(source), sound)
    assert steps["frames"] == 150
    assert 0.05 < steps["tdt_tokens"] / steps["frames"] < 1
    assert steps["rnnt_steps"] == steps["frames"] + steps["rnnt_tokens"]
    assert steps["ratio"] == steps["tdt_steps"] / steps["rnnt_steps"] < 1


@pytest.mark.parametrize("size", SIZES)
def test_a_vocabulary_has_the_size_of_its_model(tmp_path, size):
    for name, content in descriptions(size).items():
        (tmp_path / name).write_text(json.dumps(content))
    config, num_symbols, blank = read_published_config(tmp_path)
    tokenizer = read_pieces(tmp_path / "tokenizer.json", num_symbols, blank)
    assert tokenizer.vocabulary_size == num_symbols == SIZES[size]["vocab_size"]
    assert config.model.durations == (0, 1, 2, 3, 4)


def test_an_export_has_its_files_its_time_and_its_memory(source, tmp_path):
    found = benchmark.export(str(source), str(tmp_path / "export"), "sherpa_onnx")
    assert (tmp_path / "export" / "joiner.onnx").is_file()
    assert found["seconds"] > 0 and found["peak_bytes"] > anonymous_bytes() / 2 > 0


def test_sounds_have_their_length_and_are_not_clipped():
    sounds = made_sounds(2, 0.5)
    assert sounds.shape == (2, 8000) and 0.01 < np.abs(sounds).max() <= 0.3
    assert np.abs(sounds[0] - sounds[1]).max() > 0.01


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "--size"),
        ({"size": "tiny", "precisions": "int8_fp32"}, "--precisions"),
        ({"size": "tiny", "precisions": "fp32,fp8"}, "--precisions"),
        ({"size": "tiny", "loop": "0"}, "--loop >= 1"),
        ({"size": "tiny", "batch_sizes": "0"}, "--batch_sizes"),
    ],
)
def test_flags_that_are_refused(flags, message):
    with refused(message):
        benchmark.main([f"--{name}={value}" for name, value in flags.items()])


def test_figures_are_shown(capsys):
    row = {"peak_bytes": 2**31, "peak_per_weights": 2.0}
    sides = {"sides": {"fp32": {"median_ms": 7.0}}}
    steps = {"tdt_steps": 3, "rnnt_steps": 9, "ratio": 1 / 3}
    report = SimpleNamespace(
        weight_bytes=2**30, export={"savedmodel": row}, conversion={}, run={"fp32": row},
        encoder={**sides, "steps": steps}, recognition={"versions": {}, "8": sides},
    )  # fmt: skip
    benchmark.show(vars(report))
    lines = capsys.readouterr().out.splitlines()
    assert "export savedmodel: peak 2.00 GiB, 2.00 x the weights" in lines
    assert "recognition, batch 8: fp32 7 ms" in lines
    assert lines[-1] == "sequential steps: 3 with durations, 9 without (0.33 x)"
