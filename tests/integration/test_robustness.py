"""The bundled model on sound as rooms have it; `tools.benchmark.robustness` measures the rates."""

import numpy as np
import pytest
import soundfile

import conformer
from conformer.session import BUNDLED_MODEL
from tools.benchmark.robustness import CHANGES, empty_sounds
from tools.speech.synthesis import synthesize

RATE_HZ = 16000
SAID = "ONE SEVEN NINE ZERO"


@pytest.fixture(scope="module")
def model():
    with conformer.load(run_eagerly=True) as session:
        yield session


@pytest.fixture(scope="module")
def sample():
    return soundfile.read(BUNDLED_MODEL / "sample.flac", dtype="float32")[0]


@pytest.mark.parametrize("name", CHANGES)
def test_changes_around_and_under_the_words_leave_the_text(model, sample, name):
    for number, change in enumerate(CHANGES[name]):
        changed = change(sample, RATE_HZ, np.random.default_rng([5, number]))
        assert model.transcribe(changed.astype(np.float32), rate_hz=RATE_HZ).text == SAID, number


@pytest.mark.parametrize("name", empty_sounds(RATE_HZ))
def test_where_nobody_speaks_the_text_is_empty(model, name):
    for number, sound in enumerate(empty_sounds(RATE_HZ)[name][:6]):
        assert model.transcribe(sound, rate_hz=RATE_HZ).text == "", number


@pytest.mark.parametrize("gap_seconds", [0.0, 0.3])
@pytest.mark.parametrize("word", ["NINE", "ZERO", "FOUR"])
def test_a_word_that_is_said_five_times_is_written_five_times(model, word, gap_seconds):
    one = synthesize(word.lower(), voice="en-us+m7")
    gap = np.zeros(round(gap_seconds * RATE_HZ), np.float32)
    sound = np.concatenate([one, gap] * 5)
    assert model.transcribe(sound, rate_hz=RATE_HZ).text == " ".join([word] * 5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("probe_sil_sp_sil_3.flac", "ONE TWO TWO SEVEN ZERO"),
        ("probe_four_x5.flac", "FOUR FOUR FOUR FOUR FOUR"),
    ],
)
def test_real_recordings_between_silence_and_repeated(model, shared_data, name, text):
    assert model.transcribe(shared_data / "reported" / "sound" / name).text == text
