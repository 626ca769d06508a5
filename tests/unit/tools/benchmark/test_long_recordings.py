"""The benchmark of long recordings, with a stand-in for a model."""

from types import SimpleNamespace

import pytest
import soundfile

from tests.support.errors import refused
from tests.support.spelling import HOP, PIPELINE, RATE_HZ, Spelling, sound_of
from tools.benchmark import long_recordings as benchmark
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.session import SpeechSession
from tools.speech.audio import AudioLimits
from tools.speech.long_audio import Window

TEXTS = ("AB ", "CAD ", "H ")


@pytest.fixture
def utterances(tmp_path):
    found = []
    for text in TEXTS:
        path, sound = tmp_path / f"{text.strip()}.wav", sound_of(text)
        soundfile.write(path, sound, RATE_HZ)
        seconds = len(sound) / RATE_HZ
        found.append(
            SimpleNamespace(path=str(path), transcript=text.strip(), duration_seconds=seconds)
        )
    return found


def test_all_utterances_come_before_one_comes_again(utterances):
    found = benchmark.drawn(utterances, 3.0)
    for start in range(0, len(found) - 2, 3):
        assert {x.transcript for x in found[start : start + 3]} == {"AB", "CAD", "H"}
    length = sum(x.duration_seconds for x in found)
    assert 3.0 <= length < 3.0 + found[-1].duration_seconds
    assert benchmark.drawn(utterances, 1.0) == found[: len(benchmark.drawn(utterances, 1.0))]


def test_a_whole_is_compared_with_its_minute_its_parts_and_silence(utterances, tmp_path):
    limits = AudioLimits(rate_hz=RATE_HZ, min_seconds=0.02, max_seconds=600.0)
    window = Window.of_seconds(0.6, 0.2, HOP, RATE_HZ)
    asked = []

    def run_alone(first, sounds):
        asked.append((len(first), len(sounds)))
        session = SpeechSession(
            Spelling(), CtcDecoder(PIPELINE), limits, batch_size=4, window=window
        )
        found = benchmark.recognized(session, first, sounds)
        return found | {"seconds": float(len(asked)), "peak_mib": 10.0 * len(asked)}

    found = benchmark.measure(
        run_alone, utterances, tmp_path, seconds=70.0, silence_seconds=61.5, limits=limits
    )
    rows = found["rows"]
    assert [rows[name]["wer"] for name in ("minute", "whole", "utterances")] == [0.0] * 3
    assert 60 <= rows["minute"]["sound_seconds"] < 61 < 70 <= rows["whole"]["sound_seconds"] < 71
    assert rows["whole"]["sound_seconds"] == rows["utterances"]["sound_seconds"]
    assert rows["silence"]["sound_seconds"] == 61.5 and rows["silence"]["is_empty"]
    assert found["memory_ratio"] == 2.0, "the second measurement against the first"
    assert found["speed_ratio"] == pytest.approx(1.5), "the third took 3 s, the second 2 s"
    assert asked[0] == (0, 1) and asked[1] == (1, 1) and asked[3] == (0, 1)
    assert 0 < asked[2][0] < asked[2][1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--model DIR --data_dir DIR"),
        (["--model=m", "--data_dir=d", "--hours=0"], "--hours of 0.001 to 24"),
        (["--model=m", "--data_dir=d", "--silence_hours=25"], "--silence_hours of 0 to 24"),
    ],
)
def test_bad_flags_are_refused(flags, message):
    with refused(message):
        benchmark.main(flags)
