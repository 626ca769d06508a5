"""Which sounds batches may hold, and how they are padded."""

import dataclasses
import threading
import time

import numpy as np
import pytest

from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.config.loader import load
from tools.speech import reading
from tools.speech.audio import AudioLimits
from tools.speech.config import DataConfig
from tools.speech.corpus import read_corpus
from tools.speech.reading import evaluation_limits, read_batches, training_limits

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
    found = read_corpus(corpus, limits=limits(DATA, RATE_HZ), progress=False)
    assert [u.transcript for u in found.utterances] == kept
    assert set(found.skipped) == {"too_short", "too_long"}


def test_limits_are_of_the_models_rate():
    for limits in (training_limits, evaluation_limits):
        assert limits(DATA, 8000).rate_hz == 8000


def test_a_batch_drops_what_its_own_limits_refuse(corpus):
    """Whatever the manifest was read with."""
    utterances = read_corpus(corpus, progress=False).utterances
    (batch,) = read_batches(utterances, 8, evaluation_limits(DATA, RATE_HZ), 2)
    lengths = [0, 2400, 8000, 8160, 16000, 0]
    assert batch.indices == list(range(6))
    assert batch.lengths.tolist() == lengths
    assert batch.reasons == ["too_short", "", "", "", "", "too_long"]
    assert batch.waveforms.shape == (6, 16000)
    assert (batch.waveforms.dtype, batch.lengths.dtype) == (np.float32, np.int32)
    inside = np.arange(16000) < np.array(lengths)[:, None]
    assert not batch.waveforms[~inside].any()
    assert batch.waveforms[inside].std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 6, 9])
def test_every_utterance_comes_once_and_in_order(corpus, batch_size, num_threads):
    utterances = read_corpus(corpus, progress=False).utterances
    batches = list(read_batches(utterances, batch_size, AudioLimits(), num_threads))
    assert [len(x.indices) for x in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert [index for batch in batches for index in batch.indices] == list(range(6))
    lengths = [int(n) for batch in batches for n in batch.lengths]
    assert lengths == [u.num_samples for u in utterances]


def test_no_utterances_give_no_batch():
    assert list(read_batches([], 4, AudioLimits())) == []


def test_reading_stays_a_few_batches_ahead_and_ends_with_its_user(corpus, monkeypatch):
    utterances = read_corpus(corpus, progress=False).utterances * 20
    read, real = [], reading.read

    def watched(path, limits, **options):
        read.append(path)
        return real(path, limits, **options)

    monkeypatch.setattr(reading, "read", watched)
    batches = read_batches(utterances, 4, AudioLimits(), 2)
    next(batches)
    time.sleep(0.3)  # the threads read what they were given
    batches.close()
    before = len(read)
    assert 4 <= before <= 12  # this one and two more
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_a_batch_has_at_least_the_samples_of_one_frame(tmp_path, rng):
    sounds = [0.1 * rng.normal(size=size) for size in (330, 350)]
    write_librispeech(tmp_path / "c", zip("AB", sounds, strict=True))
    data = dataclasses.replace(DATA, min_seconds=0.001)
    limits = evaluation_limits(data, RATE_HZ)
    found = read_corpus(tmp_path / "c", limits=limits, progress=False)
    (batch,) = read_batches(found.utterances, 2, limits)
    assert batch.waveforms.shape == (2, 400)


@pytest.mark.parametrize(
    "wrong", [{"train_splits": ()}, {"num_buckets": 0}, {"eval_batch_size": 0}]
)
def test_data_sections_that_cannot_be_are_refused(wrong):
    DATA.validate()
    with refused(next(iter(wrong))):
        load(DataConfig, None, wrong)
