"""The benchmarks of whole recognition, of CTC beams and of large language models."""

import numpy as np
import pytest

from tests.support.errors import refused
from tools.benchmark import conformer_recognition, ctc_decoding, language_model
from tools.benchmark.paced import fitted, paced_sound, rhythm
from tools.decoding.arpa import read_arpa


def test_the_level_of_the_sound_follows_the_tokens():
    sound = paced_sound(2, 2.0, 5.0, 1000)
    levels = np.abs(sound["waveforms"]).reshape(2, 20, 100).mean(axis=-1)
    is_loud = levels > levels.mean()
    times = np.tile(np.arange(20) / 2, (2, 1))  # each level lasts for two of the stretches
    np.testing.assert_array_equal(is_loud, rhythm(times) > 0)
    assert sound["lengths"].tolist() == [2000, 2000]


def test_the_direction_that_tells_the_levels_is_found(rng):
    wanted = rhythm(np.tile((np.arange(40) + 0.5) * 8 / 40, (3, 1)))
    mixing = rng.normal(size=4)
    encoded = (wanted[..., None] - 0.5) * mixing + 1e-3 * rng.normal(size=(3, 40, 4))
    direction, offset = fitted(encoded, 8.0)
    np.testing.assert_allclose(encoded @ direction + offset, wanted, atol=0.05)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loop=0"], "--loop >= 1"),
        (["--seconds=0.5"], "--seconds of 1 to 60"),
        (["--tokens_per_second=0"], "--tokens_per_second of 0.1 to 10"),
        (["--precisions=int4"], "--precisions of fp32,int8_fp32"),
        (["--precisions=int8_fp32"], "--calibration_data_dir"),
        (["--beam_width=0"], "--beam_width of 1 to 2000"),
    ],
)
def test_bad_flags_of_whole_recognition_are_refused(flags, message):
    with refused(message):
        conformer_recognition.main(flags)


def test_both_searches_of_a_ctc_model_find_the_same_texts(rng, tmp_path):
    pytest.importorskip("pyctcdecode", reason="the extra [peers] is not installed")
    known = ctc_decoding.sentences_of(rng, 20, 3)
    logits = [ctc_decoding.logits_of(rng, text[:12]) for text in known]
    sides = ctc_decoding.searches(10, None, tmp_path)

    def in_turn(calls, *_, **__):
        return {name: {"median_ms": 1e3 * run()} for name, run in calls.items()}

    row = ctc_decoding.measure(sides, logits, 1, in_turn)
    assert row["equal_texts"] == 3
    assert row["speedup"] == pytest.approx(row["pyctcdecode"] / row["ours"])


def test_a_random_language_model_is_one_of_the_size(tmp_path):
    path = tmp_path / "random.arpa"
    path.write_text("".join(language_model.random_arpa(1000)))
    model = read_arpa(path)
    assert model.order == 4
    assert 900 < len(model) < 1010


@pytest.mark.parametrize(
    ("program", "flags", "message"),
    [
        (ctc_decoding, ["--num_sentences=0"], "--num_sentences >= 1"),
        (ctc_decoding, ["--beam_width=0"], "--beam_width of 1 to 2000"),
        (language_model, ["--num_ngrams=5"], "--num_ngrams of 100"),
    ],
)
def test_bad_flags_are_refused(program, flags, message):
    with refused(message):
        program.main(flags)
