"""Synthesized speech: plausible, reproducible, and clear about what it cannot say."""

import threading

import espeakng_loader
import numpy as np
import pytest

from tests.support.errors import refused
from tools.speech.synthesis import synthesize, voice_variants


def test_speech_is_plausible():
    waveform = synthesize("seven three nine")
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert 0.6 < len(waveform) / 16000 < 2.5
    assert np.isfinite(waveform).all()
    assert 0.1 < np.abs(waveform).max() <= 1.0


@pytest.mark.parametrize(
    "voice", ["en-us", "en-gb+f2", "en-us+m3", "en-us+whisper", "en-us+klatt2", "en-us+caleb"]
)
def test_same_arguments_give_the_same_samples_whatever_was_said_before(voice):
    first = synthesize("eight two", voice=voice)
    synthesize("one", voice="en-us+croak", rate_words_per_minute=90, pitch=10)
    synthesize("five six", voice="en+f4")
    np.testing.assert_array_equal(synthesize("eight two", voice=voice), first)


def test_threads_do_not_disturb_one_another():
    texts = ["one two three", "four", "five six", "nine nine nine nine"]
    alone = [synthesize(text, voice="en-us+f3") for text in texts]
    together = [None] * len(texts)

    def speak(index):
        together[index] = synthesize(texts[index], voice="en-us+f3")

    threads = [threading.Thread(target=speak, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, actual in zip(alone, together, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_every_argument_matters():
    reference = synthesize("seven")
    for other in (
        synthesize("zero"),
        synthesize("seven", voice="en-us+m3"),
        synthesize("seven", voice="en-gb"),
        synthesize("seven", pitch=80),
        synthesize("seven", rate_words_per_minute=120),
    ):
        assert len(other) != len(reference) or not np.array_equal(other, reference)


def test_rate_of_speech_and_of_samples():
    slow, fast = (synthesize("four four", rate_words_per_minute=rate) for rate in (100, 250))
    assert len(slow) > 1.5 * len(fast)
    half = synthesize("four four", rate_words_per_minute=100, target_rate_hz=8000)
    assert abs(len(slow) - 2 * len(half)) <= 1


def test_variants_are_listed():
    assert {"m1", "m3", "f2", "f5"} <= set(voice_variants())


def test_a_long_installation_path_is_no_obstacle(tmp_path, monkeypatch):
    expected = synthesize("six")
    folder = tmp_path / ("x" * 160)
    folder.mkdir()
    link = folder / "espeak-ng-data"
    link.symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(link))
    np.testing.assert_array_equal(synthesize("six"), expected)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"voice": "no-such-voice"}, "no-such-voice"),
        ({"voice": ""}, "voice"),
        ({"voice": "en-us+nobody"}, "nobody"),
        ({"voice": "en-us+m3+f2"}, "m3+f2"),
        ({"voice": "en-us+../../en_dict"}, "en_dict"),
        ({"text": ""}, "text"),
        ({"text": " .!"}, "text"),
        ({"text": "one\0two"}, "text"),
        ({"rate_words_per_minute": 79}, "rate_words_per_minute from 80 to 450"),
        ({"rate_words_per_minute": 451}, "rate_words_per_minute from 80 to 450"),
        ({"pitch": 100}, "pitch from 0 to 99"),
        ({"pitch": -1}, "pitch from 0 to 99"),
    ],
)
def test_bad_arguments_are_one_line(arguments, named):
    with refused(named):
        synthesize(**{"text": "one", **arguments})
    assert synthesize("one").size
