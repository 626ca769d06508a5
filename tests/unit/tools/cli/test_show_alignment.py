"""The picture of a sound with its words."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.errors import refused
from tests.support.speech import wav_bytes
from tests.support.spelling import PIPELINE, RATE_HZ, Spelling, sound_of
from tools.cli import show_alignment
from tools.cli.show_alignment import draw, main, spectrogram
from tools.decoding.timestamps import Word
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.session import SpeechSession
from tools.speech.audio import AudioLimits


def test_a_tone_is_a_line_at_its_time_and_frequency():
    seconds = np.arange(RATE_HZ) / RATE_HZ
    sound = np.where(seconds > 0.5, np.sin(2 * np.pi * 2000 * seconds), 0.0)
    levels = spectrogram(sound, RATE_HZ)
    assert levels.shape == (101, 201)
    assert (levels[60:95].argmax(axis=1) == 50).all()  # bins of 40 Hz
    assert levels[:45].max() == levels.max() - 70.0 == levels.min()


def test_words_change_the_picture_where_they_are():
    sound = np.zeros(2 * RATE_HZ)

    def pixels(*words):
        return np.asarray(Image.open(io.BytesIO(draw(sound, RATE_HZ, words, "$x")))).astype(int)

    plain, spoken = pixels(), pixels(Word("$ONE", 0.5, 1.0, 0.5))
    assert plain.shape == spoken.shape
    columns = np.flatnonzero((plain != spoken).any(axis=(0, 2)))
    left, right = columns.min() / plain.shape[1], columns.max() / plain.shape[1]
    assert 0.2 < left < 0.4 < right < 0.6


def test_a_file_is_recognized_and_drawn(tmp_path, monkeypatch, capsys):
    path, picture = tmp_path / "a.wav", tmp_path / "a.png"
    path.write_bytes(wav_bytes(sound_of("AB CD", 9)))
    limits = AudioLimits(RATE_HZ, 0.02, 60.0)
    session = SpeechSession(Spelling(), CtcDecoder(PIPELINE), limits)
    monkeypatch.setattr(show_alignment, "open_session", lambda *_: session)
    assert main([str(path), f"--output={picture}"]) == 0
    assert "2 words" in capsys.readouterr().err
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one sound file"),
        (["a.wav", "b.wav"], "one sound file"),
        (["a.wav", "--output=a.svg"], "--output FILE.png"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    with refused(message):
        main(arguments)
