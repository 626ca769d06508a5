"""Which sounds batches may hold, and how they are padded."""

import dataclasses

import numpy as np
import pytest

from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.speech.batches import evaluation_dataset, evaluation_limits, training_limits
from tools.speech.config import DataConfig
from tools.speech.corpus import read_librispeech

RATE_HZ = 16000
DATA = DataConfig(min_seconds=0.15, max_seconds=0.5, max_eval_seconds=1.0)
SECONDS = (0.14, 0.15, 0.5, 0.51, 1.0, 1.01)


@pytest.fixture
def corpus(tmp_path, rng):
    """Utterances of lengths at the limits, each named by its length."""
    sounds = [0.1 * rng.normal(size=round(RATE_HZ * x)) for x in SECONDS]
    write_librispeech(tmp_path / "c", zip(map(str, SECONDS), sounds, strict=True))
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("limits", "kept"),
    [(training_limits, ["0.15", "0.5"]), (evaluation_limits, ["0.15", "0.5", "0.51", "1.0"])],
)
def test_training_and_evaluation_have_limits_of_their_own(corpus, limits, kept):
    found = read_librispeech(corpus, limits=limits(DATA, RATE_HZ), progress=False)
    assert [u.transcript for u in found.utterances] == kept
    assert set(found.skipped) == {"too_short", "too_long"}


def test_limits_are_of_the_models_rate():
    for limits in (training_limits, evaluation_limits):
        assert limits(DATA, 8000).rate_hz == 8000


@pytest.mark.parametrize("decoder", [None, "python"])
def test_a_batch_drops_what_its_own_limits_refuse(corpus, decoder):
    """Whatever the manifest was read with."""
    utterances = read_librispeech(corpus, progress=False).utterances
    if decoder:
        utterances = [dataclasses.replace(u, decoder=decoder) for u in utterances]
    (batch,) = evaluation_dataset(utterances, 8, evaluation_limits(DATA, RATE_HZ), 2)
    lengths = [0, 2400, 8000, 8160, 16000, 0]
    assert batch["lengths"].numpy().tolist() == lengths
    reasons = [b"too_short", b"", b"", b"", b"", b"too_long"]
    assert batch["reason"].numpy().tolist() == reasons
    assert batch["waveforms"].shape == (6, 16000)
    inside = np.arange(16000) < np.array(lengths)[:, None]
    assert not batch["waveforms"].numpy()[~inside].any()
    assert batch["waveforms"].numpy()[inside].std() == pytest.approx(0.1, rel=0.1)


def test_a_batch_has_at_least_the_samples_of_one_frame(tmp_path, rng):
    sounds = [0.1 * rng.normal(size=size) for size in (330, 350)]
    write_librispeech(tmp_path / "c", zip("AB", sounds, strict=True))
    data = dataclasses.replace(DATA, min_seconds=0.001)
    limits = evaluation_limits(data, RATE_HZ)
    found = read_librispeech(tmp_path / "c", limits=limits, progress=False)
    (batch,) = evaluation_dataset(found.utterances, 2, limits)
    assert batch["waveforms"].shape == (2, 400)


@pytest.mark.parametrize(
    "wrong", [{"train_splits": ()}, {"num_buckets": 0}, {"eval_batch_size": 0}]
)
def test_data_sections_that_cannot_be_are_refused(wrong):
    DATA.validate()
    dataclasses.replace(DATA, num_buckets=1, eval_batch_size=1).validate()
    with refused("data.train_splits, data.num_buckets >= 1 and data.eval_batch_size >= 1"):
        dataclasses.replace(DATA, **wrong).validate()
