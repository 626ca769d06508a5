"""What containers say of themselves, read from bytes by hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.speech import wav_bytes
from tools.speech import chunks, containers, flac_frames


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"RIFF\0\0\0\0WAVE", "WAV"),
        (b"RIFX\0\0\0\0WAVE", "WAV"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x11\0", "WAV"),
        (b"RIFF\0\0\0\0WAVEfmt \x28\0\0\0\xfe\xff" + bytes(22) + b"\3\0", "WAV"),
        (b"RIFF\0\0\0\0WAVEfmt \x28\0\0\0\xfe\xff" + bytes(22) + b"\x55\0", "compressed WAV"),
        (b"FORM\0\0\0\0AIFF", "AIFF"),
        (b"FORM\0\0\0\0AIFC", "AIFF"),
        (b"fLaC\0\0\0\x22", "FLAC"),
        (b"OggS\0\2", "OGG"),
        (b"ID3\4\0", "MP3"),
        (b"\xff\xe0\0\0", "MP3"),
        (b"\xff\xfb\x90\x64", "MP3"),
        (b"NIST_1A\n   1024\nsample_coding -s3 pcm\nend_head\n", "NIST"),
        (b"NIST_1A\n   1024\nsample_coding -s4 ulaw\nend_head\n", "NIST"),
    ],
)
def test_kinds_are_told_by_content(head, kind):
    assert containers.kind(head) == kind


@pytest.mark.parametrize(
    "head",
    [b"RIFF\0\0\0\0ACON", b"FORM\0\0\0\x008SVX", b"\xff\xdf\0\0", b"\xff", b"RIFF", b"ID4\4"],
)
def test_other_kinds_are_refused(head):
    with pytest.raises(
        containers.ContainerError, match="not FLAC, WAV, AIFF, AU, OGG, MP3 or NIST SPHERE"
    ) as caught:
        containers.kind(head)
    assert not caught.value.truncated


def canonical(**changes):
    """The header of a WAV, with bytes changed at places."""
    head = bytearray(wav_bytes(np.zeros(100))[:44])
    for place, value in changes.items():
        start = int(place[1:])
        head[start : start + len(value)] = value
    return bytes(head)


def test_a_canonical_wav_is_plain_pcm_with_its_samples_next():
    assert chunks.is_canonical_wav(canonical())
    assert chunks.is_canonical_wav(canonical(_40=b"\xff\xef\xff\x7f"))  # 0x7FFFEFFF bytes
    for changes in (
        {"_0": b"RIFX"},
        {"_16": b"\x12"},  # a longer description of the format
        {"_20": b"\3"},  # floats
        {"_36": b"LIST"},
        {"_40": b"\x00\xf0\xff\x7f"},  # "to the end of the file"
        {"_40": b"\xff\xff\xff\xff"},
    ):
        assert not chunks.is_canonical_wav(canonical(**changes)), changes


def block_samples(path, data):
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return flac_frames.block_samples(descriptor)
    finally:
        os.close(descriptor)


def test_blocks_of_a_flac_that_are_all_of_one_size(tmp_path):
    """RFC 9639, section 8: STREAMINFO begins with the smallest and the largest block."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(20000), 16000)
    flac = path.read_bytes()
    size = int.from_bytes(flac[8:10], "big")
    assert size == int.from_bytes(flac[10:12], "big") > 0
    assert block_samples(path, flac) == size
    first_frame = flac.index(b"\xff\xf8")
    variable = flac[:first_frame] + b"\xff\xf9" + flac[first_frame + 2 :]
    for damaged in (
        variable,
        flac[:10] + bytes([flac[10], flac[11] ^ 1]) + flac[12:],  # sizes differ
        flac[:first_frame] + b"\0" + flac[first_frame:],  # junk before the first frame
        flac[:first_frame],
        flac[:6],
    ):
        assert block_samples(path, damaged) == 0


def test_a_flac_is_written_whole_or_says_why_not(tmp_path, rng):
    sound = np.round(3000 * rng.normal(size=5000)) / 32768
    containers.write_flac(tmp_path / "a.flac", sound.astype("f"), 8000)
    info = soundfile.info(tmp_path / "a.flac")
    assert (info.samplerate, info.subtype, info.frames) == (8000, "PCM_16", 5000)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.flac")[0], sound)
    with pytest.raises(OSError, match="No space left"):
        containers.write_flac(Path("/dev/full"), sound.astype("f"), 8000)
