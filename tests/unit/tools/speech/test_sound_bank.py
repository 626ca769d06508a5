"""Background sounds and room responses of folders: all kinds are read, what is not is named."""

import itertools

import numpy as np
import pytest
import soundfile

from tests.support.errors import refused
from tools.speech.sound_bank import read_bank

RATE_HZ = 16000


def write(path, samples, rate_hz=RATE_HZ, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, **options)


def tone(frequency_hz, seconds, rate_hz=RATE_HZ):
    return 0.25 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def read(*folders, **options):
    options = {"max_minutes": 1.0, "max_seconds": 10.0} | options
    return read_bank([*map(str, folders)], RATE_HZ, key="waveform_augment.noise_dirs", **options)


def sounds_of(bank):
    starts = bank.starts.numpy()
    samples = bank.samples.numpy().astype(np.float32)
    return [samples[a:b] for a, b in itertools.pairwise(starts)]


def test_files_of_any_rate_and_channels_are_read_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "b.wav", tone(440, 0.5, 8000), 8000)
    write(tmp_path / "a.flac", np.stack([tone(300, 0.25)] * 2, axis=1))
    write(tmp_path / "deep" / "c.ogg", tone(500, 1.0, 44100), 44100)
    bank = read(tmp_path)
    found = sounds_of(bank)
    assert [len(x) for x in found] == [4000, 8000, 16000]
    for sound, hz in zip(found, (300, 440, 500), strict=True):
        assert np.abs(sound).max() == pytest.approx(1.0, abs=1e-3), "scaled to its peak"
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
        assert np.argmax(spectrum) * RATE_HZ / len(sound) == pytest.approx(hz, abs=4)
    assert bank.report == "waveform_augment.noise_dirs: 3 sounds (0.0 min)"
    assert bank.skipped == ()


def test_what_cannot_be_used_is_named_and_counted(tmp_path):
    write(tmp_path / "good.wav", tone(300, 0.25))
    write(tmp_path / "zeros.wav", np.zeros(1000))
    write(tmp_path / "nan.wav", np.full(1000, np.nan), subtype="FLOAT")
    (tmp_path / "broken.flac").write_bytes(b"fLaC nothing")
    (tmp_path / "README.txt").write_text("These are sounds.")
    bank = read(tmp_path)
    assert len(sounds_of(bank)) == 1
    reasons = dict(line.split("\t")[::-1] for line in bank.skipped)
    assert {path.rpartition("/")[2]: reason for path, reason in reasons.items()} == {
        "zeros.wav": "silent",
        "nan.wav": "non_finite",
        "broken.flac": "unreadable",
        "README.txt": "no_sound",
    }
    assert bank.report.endswith("skipped 4: no_sound 1, non_finite 1, silent 1, unreadable 1")


def test_of_each_file_an_equal_share_is_read(tmp_path, monkeypatch):
    """So no file is too long, whatever its length."""
    write(tmp_path / "long.flac", tone(300, 30.0))
    write(tmp_path / "short.wav", tone(300, 0.5))
    bank = read(tmp_path, max_minutes=4 / 60, max_seconds=100.0)
    assert [len(x) for x in sounds_of(bank)] == [2 * RATE_HZ, RATE_HZ // 2]
    assert "1 of them cut to 2.0 s" in bank.report
    bank = read(tmp_path, max_seconds=1.0)
    assert [len(x) for x in sounds_of(bank)] == [RATE_HZ, RATE_HZ // 2]


def test_folders_without_sounds_are_refused_by_the_name_of_the_key(tmp_path):
    with refused(match="waveform_augment.noise_dirs.*nowhere"):
        read(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    good = tmp_path / "good"
    write(good / "a.wav", tone(300, 0.1))
    with refused(match="sound files in each folder of waveform_augment.noise_dirs.*empty"):
        read(good, empty)
    write(empty / "zeros.wav", np.zeros(100))
    with refused(match="sounds that can be used.*zeros.wav .silent"):
        read(empty)
    assert len(sounds_of(read(good, empty))) == 1


def test_a_folder_that_is_given_twice_counts_once(tmp_path):
    write(tmp_path / "a.wav", tone(300, 0.25))
    (tmp_path / "link").symlink_to(tmp_path)
    assert len(sounds_of(read(tmp_path, tmp_path, tmp_path / "link"))) == 1


def test_a_broken_link_is_missing(tmp_path):
    write(tmp_path / "a.wav", tone(300, 0.25))
    (tmp_path / "b.wav").symlink_to(tmp_path / "nowhere")
    assert read(tmp_path).skipped == (f"missing\t{tmp_path / 'b.wav'}",)


def test_positions_beyond_31_bits(tmp_path):
    write(tmp_path / "a.wav", tone(300, 0.25))
    assert read(tmp_path).starts.dtype == "int64"  # 2,237 minutes at 16 kHz exceed 31 bits
