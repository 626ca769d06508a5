"""The table of robustness: what each row does to a sound, and what it counts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tests.support.spelling import PIPELINE, RATE_HZ, Spelling, sound_of
from tools.benchmark import robustness
from tools.benchmark.robustness import CHANGES, NOISES, main, repeated
from tools.decoding.text import byte_surface
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.session import SpeechSession
from tools.speech.audio import AudioLimits

TEXTS = ["A CD", "B", "D A B"]
# What is said begins and ends with a quiet frame and a space, so that joined texts stay apart.
SOUNDS = [sound_of(f" {text} ") for text in TEXTS]


def session_of(max_seconds=60.0):
    limits = AudioLimits(rate_hz=RATE_HZ, min_seconds=0.02, max_seconds=max_seconds)
    return SpeechSession(Spelling(), CtcDecoder(PIPELINE), limits, batch_size=4)


def changed(name, waveform, kind=0):
    return CHANGES[name][kind](waveform, RATE_HZ, np.random.default_rng(1))


@pytest.fixture(scope="module")
def voice():
    """Half a second of noise that stands for speech, and a pause in it."""
    speech = 0.1 * np.random.default_rng(0).normal(size=RATE_HZ // 2)
    return np.concatenate([speech, np.zeros(RATE_HZ // 2), speech]).astype("float32")


@pytest.mark.parametrize(
    ("name", "before", "behind"),
    [
        ("4 s of zeros behind", 0, 4),
        ("1.5 s of zeros before, 2.5 s behind", 1.5, 2.5),
        ("20 s of zeros before", 20, 0),
    ],
)
def test_zeros_are_as_long_as_the_row_says(voice, name, before, behind):
    found = changed(name, voice)
    expected = [np.zeros(int(before * RATE_HZ)), voice, np.zeros(int(behind * RATE_HZ))]
    np.testing.assert_array_equal(found, np.concatenate(expected))


def test_the_quiet_room_has_noise_under_the_speech_too(voice):
    found = changed("quiet room: 2 s before, 3 s behind, noise at -60 dB", voice)
    noise = found - np.pad(voice, (2 * RATE_HZ, 3 * RATE_HZ))
    assert len(found) == len(voice) + 5 * RATE_HZ
    for part in np.split(noise[: 4 * RATE_HZ], 4):
        assert 20 * np.log10(np.std(part)) == pytest.approx(-60, abs=0.2)


def test_offset_and_gain_are_exact_and_clip_at_full_scale(voice):
    np.testing.assert_allclose(changed("offset of 0.04", voice), voice + 0.04, atol=1e-7)
    np.testing.assert_allclose(changed("-30 dB", voice), voice * 10**-1.5, rtol=1e-5)
    loud = changed("+20 dB, clipped", voice)
    np.testing.assert_allclose(loud, np.clip(10 * voice, -1, 1), rtol=1e-5)
    assert np.abs(loud).max() == 1


@pytest.mark.parametrize("snr_db", [20, 10])
def test_noise_is_measured_against_the_speech_without_its_pauses(voice, snr_db):
    for kind in range(3):
        noise = changed(f"noise at {snr_db} dB", voice, kind) - voice
        found = 20 * np.log10(0.1 / np.sqrt(np.mean(noise**2)))
        assert found == pytest.approx(snr_db, abs=0.3)
    assert len(CHANGES[f"noise at {snr_db} dB"]) == 3


def test_noises_have_their_spectra():
    power = {
        name: np.abs(np.fft.rfft(make(RATE_HZ * 8, RATE_HZ, np.random.default_rng(2)))) ** 2
        for name, make in NOISES.items()
    }
    hz = np.fft.rfftfreq(RATE_HZ * 8, 1 / RATE_HZ)

    def share(name, low, high):
        return power[name][(hz >= low) & (hz < high)].sum() / power[name].sum()

    assert share("white", 0, 4000) == pytest.approx(0.5, abs=0.01)
    assert share("pink", 100, 200) == pytest.approx(share("pink", 2000, 4000), rel=0.1)
    lines = [share("hum", 50 * n - 0.5, 50 * n + 0.5) for n in range(1, 6)]
    np.testing.assert_allclose(lines, (1 / np.arange(1, 6) ** 2) / 1.4636, rtol=1e-3)


def test_empty_sounds_are_as_many_and_as_loud_as_stated():
    sounds = robustness.empty_sounds(RATE_HZ)
    for name in ("white and pink noise alone", "hum alone"):
        assert len(sounds[name]) == 20
        seconds = [len(sound) / RATE_HZ for sound in sounds[name]]
        assert 1 <= min(seconds) < 2 < 9 < max(seconds) <= 10
        levels = [10 * np.log10(np.mean(sound**2)) for sound in sounds[name]]
        assert -60.01 <= min(levels) < -50 < -20 < max(levels) <= -9.99
    (click,), (silence,) = sounds["a click"], sounds["silence"]
    assert len(click) == len(silence) == 3 * RATE_HZ
    assert (np.count_nonzero(click), click.max()) == (1, 0.5)
    assert not silence.any()


def test_a_word_is_repeated_five_times_with_its_gaps(voice):
    np.testing.assert_array_equal(repeated(voice, RATE_HZ, 0.0), np.tile(voice, 5))
    gap = np.zeros(4800, np.float32)
    expected = np.concatenate([voice, gap] * 4 + [voice])
    np.testing.assert_array_equal(repeated(voice, RATE_HZ, 0.3), expected)


def test_rows_count_the_errors_of_their_change():
    """The stand-in writes levels: gain changes all of its letters, zeros and offsets none."""
    rows = robustness.measure(session_of(), SOUNDS, TEXTS)
    assert list(rows)[: len(CHANGES)] == list(CHANGES)
    for name in ("none", "4 s of zeros behind", "20 s of zeros before", "offset of 0.04"):
        assert (rows[name]["wer"], rows[name]["texts"]) == (0.0, TEXTS), name
    assert rows["-30 dB"]["deletions"] == rows["-30 dB"]["num_words"] == 6
    assert rows["+20 dB, clipped"]["substitutions"] > 0
    assert rows["noise at 20 dB"]["num_words"] == 3 * 6, "three kinds of noise"
    for name in ("one word five times", "one word five times, with gaps of 300 ms"):
        assert [text.split() for text in rows[name]["texts"]] == [["B"] * 5]
        assert (rows[name]["wer"], rows[name]["num_words"]) == (0.0, 5)
    assert (rows["silence"]["num_not_empty"], rows["silence"]["num_sounds"]) == (0, 1)
    again = robustness.measure(session_of(), SOUNDS, TEXTS)
    assert again == rows, "the same seed"


def test_every_change_of_a_row_is_made_of_every_utterance(monkeypatch):
    def same(waveform, rate_hz, rng):
        return waveform

    def silent(waveform, rate_hz, rng):
        return 0 * waveform

    monkeypatch.setattr(robustness, "CHANGES", {"both": (same, silent)})
    row = robustness.measure(session_of(), SOUNDS, TEXTS)["both"]
    assert row["texts"] == [*TEXTS, "", "", ""]
    assert (row["num_words"], row["deletions"]) == (12, 6)


def test_rows_that_cannot_be_measured_say_why():
    rows = robustness.measure(session_of(max_seconds=15.0), SOUNDS[:1], TEXTS[:1])
    assert rows["20 s of zeros before"] == {"reason": "20.4 s, and the model takes 15 s"}
    assert rows["one word five times"] == {"reason": "the data set has no utterance of one word"}
    assert rows["none"]["wer"] == 0
    assert "not measured: 20.4 s" in robustness.describe(rows["20 s of zeros before"])


def test_the_program_writes_every_row_and_compares_with_tensorflow(tmp_path, monkeypatch, capsys):
    write_librispeech(tmp_path / "set", zip(TEXTS, SOUNDS, strict=True))
    opened = []

    def open_session(model_dir, options):
        opened.append((model_dir, options.run_eagerly, options.batch_size))
        return session_of()

    monkeypatch.setattr(robustness, "open_session", open_session)
    report = tmp_path / "report.json"
    arguments = ["--model=m", f"--data_dir={tmp_path}/set", f"--json={report}"]
    main([*arguments, "--compare_eager", "--batch_size=2"])
    assert opened == [("m", False, 2), ("m", True, 2)]
    rows = json.loads(report.read_text())["rows"]
    assert rows["none"]["texts"] == TEXTS
    assert {row["num_differing_texts"] for row in rows.values()} == {0}
    printed = capsys.readouterr().out
    assert "none: WER 0.00% of 6 words (0 substitutions, 0 deletions, 0 insertions)" in printed
    assert "silence: 0 of 1 texts are not empty; 0 texts differ from TensorFlow's" in printed
    assert printed.count("\n") == len(rows)


@pytest.mark.parametrize("arguments", [[], ["--model=m"], ["--data_dir=d"], ["--model=m", "more"]])
def test_model_and_data_are_needed(arguments):
    with refused(match="--model DIR --data_dir DIR"):
        main(arguments)


def test_a_model_of_images_is_refused(monkeypatch, tmp_path):
    class Images:
        def close(self):
            self.closed = True

    session = Images()
    monkeypatch.setattr(robustness, "open_session", lambda *_: session)
    with refused(match="recognizes speech.*Received: m"):
        main(["--model=m", f"--data_dir={tmp_path}"])
    assert session.closed


@pytest.mark.parametrize(
    ("vocabulary", "text"),
    [
        ({"kind": "subwords", "surfaces": ["", "a ", "b", *map(byte_surface, range(256))]}, "a b"),
        ({"kind": "characters", "surfaces": ["", "a", "b"]}, "A B"),
    ],
)
def test_transcripts_are_normalized_as_in_the_training_of_a_transducer(
    tmp_path, rng, vocabulary, text
):
    """The bytes of a subword vocabulary have both cases and decide nothing."""
    write_librispeech(tmp_path / "dev", [("A b", 0.1 * rng.normal(size=8000))])
    pipeline = {"family": "conformer", "vocabulary": vocabulary}
    session = SimpleNamespace(pipeline=pipeline, limits=AudioLimits())
    assert robustness.read_speech(session, tmp_path / "dev")[1] == [text]
