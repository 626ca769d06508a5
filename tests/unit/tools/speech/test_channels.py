"""Several channels to one: the mean, unless they cancel in it."""

import logging

import numpy as np
import pytest
import soundfile

from tests.support.errors import refused
from tools.speech import audio

RATE_HZ = 16000
SOUND = 0.3 * np.random.default_rng(0).standard_normal(24 * RATE_HZ).clip(-3, 3).astype(np.float32)
NOISE = 0.3 * np.random.default_rng(1).standard_normal(len(SOUND)).astype(np.float32)


def write(path, *channels, rate_hz=RATE_HZ):
    soundfile.write(path, np.stack(channels, axis=1), rate_hz, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ((SOUND, -SOUND), SOUND),
        ((0.9 * SOUND, -SOUND), -SOUND),
        ((-0.7 * SOUND, SOUND), SOUND),
        ((SOUND, -SOUND, 0 * SOUND), SOUND),
        ((0.01 * NOISE, SOUND, -0.95 * SOUND), SOUND),
    ],
)
def test_where_channels_cancel_the_loudest_is_read(tmp_path, caplog, channels, expected):
    path = write(tmp_path / "two.wav", *channels)
    for _ in range(2):
        found, streamed = audio.read(path), np.concatenate(list(audio.stream(path)))
        difference = found - expected
        assert np.square(difference).mean() < 1e-3 * np.square(expected).mean()
        np.testing.assert_array_equal(streamed, found)
    (record,) = caplog.records  # said once
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage() and "channels cancel" in record.getMessage()


@pytest.mark.parametrize(
    "channels",
    [
        (SOUND, SOUND),
        (SOUND, NOISE),
        (SOUND, 0 * SOUND),
        (0 * SOUND, 0 * SOUND, SOUND, 0 * SOUND, 0 * SOUND, 0 * SOUND),
        (SOUND, -0.4 * SOUND),
        (0 * SOUND, 0 * SOUND),
        (SOUND, np.concatenate([-SOUND[:99999], SOUND[99999:]])),
    ],
)
def test_else_the_mean_is_read(tmp_path, caplog, channels):
    path = write(tmp_path / "two.wav", *channels)
    np.testing.assert_allclose(audio.read(path), np.mean(channels, axis=0), atol=1e-6)
    streamed = np.concatenate(list(audio.stream(path)))
    np.testing.assert_allclose(streamed, np.mean(channels, axis=0), atol=1e-6)
    assert not caplog.records


def test_a_channel_is_resampled_like_a_mean(tmp_path):
    path = write(tmp_path / "two.wav", SOUND, -SOUND, rate_hz=44100)
    alone = write(tmp_path / "one.wav", SOUND, rate_hz=44100)
    np.testing.assert_array_equal(audio.read(path), audio.read(alone))
    streamed = np.concatenate(list(audio.stream(path)))
    np.testing.assert_allclose(streamed, audio.read(path), atol=1e-5)


def test_samples_that_are_not_finite_are_still_refused(tmp_path):
    broken = SOUND.copy()
    broken[5] = np.nan
    path = write(tmp_path / "two.wav", broken, -broken)
    for way in (audio.read, lambda path: list(audio.stream(path))):
        with pytest.raises(audio.AudioError, match="NaN"):
            way(path)


def test_the_file_beside_the_project(shared_data):
    folder = shared_data / "reported" / "sound"
    found, _ = soundfile.read(folder / "08_phase_inverted.wav", dtype="float32")
    np.testing.assert_array_equal(audio.read(folder / "08_phase_inverted.wav"), found[:, 0])


def test_a_channel_is_read_alone(tmp_path, caplog):
    path = write(tmp_path / "two.wav", SOUND, -SOUND, NOISE)
    for number, expected in enumerate((SOUND, -SOUND, NOISE), 1):
        np.testing.assert_array_equal(audio.read(path, channel=number), expected)
        streamed = np.concatenate(list(audio.stream(path, channel=number)))
        np.testing.assert_array_equal(streamed, expected)
    assert not caplog.records
    for number in (0, 4):
        with refused(f"{path}: 3 channels", error=audio.AudioError) as caught:
            audio.read(path, channel=number)
        assert caught.value.reason == "channel"


def test_what_comes_before_damage_is_read_of_several_channels_too(tmp_path):
    path = tmp_path / "two.flac"
    soundfile.write(path, np.stack([SOUND, NOISE], axis=1), RATE_HZ)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    found = []
    with refused(str(path)):
        for piece in audio.stream(path):
            found.append(piece)
    found = np.concatenate(found)
    assert 10 * RATE_HZ < len(found) < 13 * RATE_HZ
    expected = (SOUND + NOISE)[: len(found)] / 2
    np.testing.assert_allclose(found, expected.clip(-1, 1), atol=0.3)
