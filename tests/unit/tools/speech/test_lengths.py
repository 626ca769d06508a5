"""Sounds that are longer or shorter than their headers say, and several in one file."""

import random

import numpy as np
import pytest

from tests.support import odd_sounds as odd
from tests.support.errors import refused
from tools.speech import audio

RATE_HZ = 16000
LIMITS = audio.AudioLimits(max_seconds=600.0)


@pytest.fixture
def read(tmp_path):
    """Reads bytes in every way, checks that all agree, and gives the samples."""

    def read(data, limits=LIMITS):
        path = tmp_path / "sound"
        path.write_bytes(data)
        info = audio.probe(path, limits)
        found = audio.read(path, limits)
        assert len(found) == info.num_samples
        assert info.duration_seconds == pytest.approx(len(found) / RATE_HZ, abs=1e-4)
        np.testing.assert_allclose(audio.read(data, limits), found, atol=2e-6)
        streamed = np.concatenate(list(audio.stream(path, limits)))
        np.testing.assert_allclose(streamed, found, atol=2e-6)
        if info.decoder != "python":
            assert data[:4] in (b"fLaC", b"RIFF")
        return found

    return read


@pytest.fixture
def read_refused(tmp_path):
    """Reads bytes that must be refused for a reason, in every way."""

    def read(data, reason, message=""):
        path = tmp_path / "sound"
        path.write_bytes(data)
        for way in (audio.read, lambda path: list(audio.stream(path)), lambda _: audio.read(data)):
            with refused(message, error=audio.AudioError) as caught:
                way(path)
            assert caught.value.reason == reason

    return read


def mp3(seconds, seed=7, num_channels=1, rate_hz=RATE_HZ, quiet_start=False, **options):
    sound = odd.voice(int(seconds * rate_hz), num_channels, seed)
    if quiet_start:
        sound[: len(sound) // 2] *= 1e-4
    return odd.encode(sound, rate_hz, "MP3", "MPEG_LAYER_III", **options)


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
@pytest.mark.parametrize("quiet_start", [False, True])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_without_a_header_is_read_whole(tmp_path, mode, quiet_start, rate_hz, num_channels):
    intact = mp3(3.0, 7, num_channels, rate_hz, quiet_start, bitrate_mode=mode)
    expected = odd.decode(intact)
    data, num_samples = odd.mp3_without_header(intact)
    assert num_samples > len(expected)  # what the header tells to leave out, at both ends
    limits = audio.AudioLimits(rate_hz=rate_hz)
    (tmp_path / "sound.mp3").write_bytes(data)
    assert audio.probe(tmp_path / "sound.mp3", limits).num_samples == num_samples
    found = audio.read(tmp_path / "sound.mp3", limits)
    assert len(found) == num_samples
    delay = odd.MP3_ENCODER_DELAY
    np.testing.assert_allclose(found[delay : delay + len(expected)], expected, atol=2e-6)


def test_an_mp3_with_a_header_keeps_its_length(read):
    intact = mp3(2.0)
    assert len(read(intact)) == 2 * RATE_HZ
    tagged = odd.id3v2(b"x" * 300) + intact + odd.ape(b"y" * 500) + odd.id3v1()
    np.testing.assert_allclose(read(tagged), read(intact), atol=2e-6)


def test_joined_mp3s_are_read_one_behind_the_other(read):
    one, two = mp3(1.3), mp3(2.1, seed=8, bitrate_mode="VARIABLE")
    expected = np.concatenate([odd.decode(one), odd.decode(two)])
    for between in (b"", odd.id3v1(), odd.ape(b"x" * 99), odd.id3v2(b"y" * 99), bytes(1000)):
        np.testing.assert_allclose(read(one + between + two), expected, atol=2e-6)
    bare, num_samples = odd.mp3_without_header(two)
    found = read(one + bare)
    assert len(found) == len(odd.decode(one)) + num_samples
    np.testing.assert_allclose(found[: len(odd.decode(one))], odd.decode(one), atol=2e-6)
    assert len(read(bare + one)) == len(found)
    both = 2 * num_samples + odd.MP3_DECODER_DELAY  # the frames of one sound, as it seems
    assert len(read(bare + bare)) == both


def test_mp3s_that_do_not_fit_together_are_refused(read_refused):
    joined = "joined sounds of 16000 Hz, 1 channels and 44100 Hz, 1 channels"
    read_refused(mp3(1.0) + mp3(1.0, rate_hz=44100), "unreadable", joined)
    read_refused(mp3(1.0) + mp3(1.0, num_channels=2), "unreadable", "2 channels")


def test_mp3_frames_that_are_missing_are_noticed(read_refused):
    intact, other = mp3(2.0), mp3(1.0, seed=8)
    frames = odd.mp3_frames(intact)
    bare = b"".join(frames[1:])
    read_refused(b"".join(frames[:20]), "truncated", "19 of")
    read_refused(b"".join(frames[:20]) + other, "truncated", "19 of")
    read_refused(bare[:-1], "truncated", "of the last frame")
    damaged = [*frames[:20], bytes(len(frames[20])), *frames[21:]]  # as long as its header says
    read_refused(b"".join(damaged), "truncated", "32000 samples")
    read_refused(b"".join(frames[1:9]) + b"x" * 50 + b"".join(frames[9:]), "unreadable", "other")


def test_an_mp2_is_read_whole(read):
    """Layer II has no header that tells a length: silence, MPEG 2, 22.05 kHz, 64 kbit/s, mono."""
    frames = [
        bytes((0xFF, 0xF5, 0x80 | 2 * padding, 0xC0)) + bytes(417 + padding - 4)
        for padding in (0, *[1] * 24) * 8
    ]
    assert len(read(b"".join(frames))) == -(-200 * 1152 * RATE_HZ // 22050)


def test_bytes_behind_an_mp3_are_no_sound(read):
    data, num_samples = odd.mp3_without_header(mp3(2.0))
    for seed, size in enumerate((1, 150, 3000, 150000)):
        behind = b"x" + random.Random(seed).randbytes(size)
        assert len(read(data + behind)) == num_samples
    with_header = mp3(2.0)
    assert len(read(with_header + behind)) == 2 * RATE_HZ


def test_a_flac_of_unknown_length_is_read_whole(read):
    for seconds in (0.1, 2.5, 20.0):
        intact = odd.encode(odd.voice(int(seconds * RATE_HZ)), RATE_HZ, "FLAC", "PCM_16")
        expected = odd.decode(intact)
        streamed = odd.flac_without_length(intact)
        np.testing.assert_array_equal(read(streamed), expected)
        np.testing.assert_array_equal(read(streamed + odd.id3v1()), expected)
        np.testing.assert_array_equal(read(odd.id3v2(b"x" * 77) + streamed), expected)


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("encoding", ["PCM_16", "PCM_24"])
def test_joined_flacs_are_read_one_behind_the_other(read, encoding, num_channels):
    one, two = (
        odd.encode(odd.voice(size, num_channels, seed), RATE_HZ, "FLAC", encoding)
        for size, seed in ((30000, 7), (47777, 8))
    )
    for first, second in ((one, two), (one, odd.flac_without_length(two))):
        expected = np.concatenate([odd.decode(one), odd.decode(two)])
        np.testing.assert_array_equal(read(first + second), expected)
        first = odd.flac_without_length(first)
        np.testing.assert_array_equal(read(first + second), expected)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 13])
@pytest.mark.parametrize("loudness", [1.0, 0.03])
def test_flacs_of_one_length_are_told_apart(read, loudness, count):
    """The last frame and the header agree about the number of samples."""
    sound = odd.voice(80000)
    one, other = (odd.encode(x * sound, RATE_HZ, "FLAC", "PCM_16") for x in (1.0, loudness))
    assert len(one) > 1 << 16
    assert len(read((count - 1) * one + other)) == count * 80000
    assert len(read(other + (count - 1) * one)) == count * 80000


def test_a_flac_that_ends_before_its_header_says_is_refused(read_refused):
    flac = odd.encode(odd.voice(30000), RATE_HZ, "FLAC", "PCM_16")
    other = odd.encode(odd.voice(20000, seed=8), RATE_HZ, "FLAC", "PCM_16")
    read_refused(flac[: len(flac) // 2], "unreadable")
    read_refused(flac[: len(flac) // 2] + other, "unreadable")
    read_refused(odd.flac_without_length(flac[:-700]), "unreadable")
    read_refused(flac + other[:30], "truncated", "FLAC at byte")


@pytest.mark.parametrize("encoding", ["VORBIS", "OPUS"])
def test_chained_oggs_are_read_one_behind_the_other(read, encoding):
    one, two = (
        odd.encode(odd.voice(size, 1, seed), RATE_HZ, "OGG", encoding)
        for size, seed in ((30000, 7), (47777, 8))
    )
    expected = np.concatenate([odd.decode(one), odd.decode(two)])
    np.testing.assert_array_equal(read(one + two), expected)
    same = odd.ogg_with_serial(one, 5) + odd.ogg_with_serial(two, 5)
    np.testing.assert_array_equal(read(same), expected)
    np.testing.assert_array_equal(read(same + odd.id3v1()), expected)


@pytest.mark.parametrize("lost", range(1, 4))
def test_a_page_that_chained_oggs_lost_is_noticed(read_refused, lost):
    one, two = (
        odd.ogg_pages(odd.encode(odd.voice(40000, 1, seed), RATE_HZ, "OGG", "VORBIS"))
        for seed in (7, 8)
    )
    assert len(one) > 4 and len(two) > 4
    read_refused(b"".join(one[:-lost] + two), "truncated")
    read_refused(b"".join(one + two[:-lost]), "truncated")
    one, two = (odd.ogg_with_serial(b"".join(pages), 5) for pages in (one[:-lost], two))
    read_refused(one + two, "truncated")


def chunks(samples, encoding="PCM_16"):
    found = odd.wav_chunks(odd.encode(samples, RATE_HZ, "WAV", encoding))
    return found[b"fmt "], found[b"data"]


@pytest.mark.parametrize("before", [(), ((b"LIST", b"some"), (b"odd ", b"one"))])
@pytest.mark.parametrize("encoding", ["PCM_16", "FLOAT", "ULAW"])
@pytest.mark.parametrize("sizes", [(0, 0), (0, 0xFFFFFFFF), (0xFFFFFFFF, 0), (0x7FFFF000, None)])
def test_a_wav_from_a_pipe_is_read_to_its_end(read, sizes, encoding, before):
    sound = odd.voice(30000)
    fmt, data = chunks(sound, encoding)
    streamed = odd.wav(fmt, data, before=before, data_bytes=sizes[0], riff_bytes=sizes[1])
    expected = odd.decode(odd.encode(sound, RATE_HZ, "WAV", encoding))
    np.testing.assert_array_equal(read(streamed), expected)


def test_a_wav_without_samples_and_with_other_chunks_is_empty(read_refused):
    fmt, data = chunks(odd.voice(3000))
    read_refused(odd.wav(fmt, b""), "empty")
    read_refused(odd.wav(fmt, b"", behind=[(b"LIST", b"some text"), (b"JUNK", data)]), "empty")


def test_joined_wavs_are_read_one_behind_the_other(read):
    one, two = (odd.voice(size, 2, size) for size in (30000, 20001))
    first = odd.wav(*chunks(one), behind=[(b"LIST", b"odd")])
    second = odd.wav(*chunks(two), before=[(b"LIST", b"some")])
    expected = np.concatenate([odd.decode(first), odd.decode(second)])
    np.testing.assert_array_equal(read(first + second), expected)
    aiff = [odd.encode(x, RATE_HZ, "AIFF", "PCM_16") for x in (one, two)]
    np.testing.assert_array_equal(read(b"".join(aiff)), expected)


@pytest.mark.parametrize("encoding", ["PCM_16", "PCM_U8", "FLOAT"])
def test_samples_that_a_header_does_not_know_are_noticed(read_refused, read, encoding):
    """As where a recorder ends before it writes the sizes again."""
    fmt, data = chunks(odd.voice(30001), encoding)
    for size in (1000, 1001, len(data) - 2000):
        for riff_bytes in (size + 36, None):
            stale = odd.wav(fmt, data, data_bytes=size, riff_bytes=riff_bytes)
            read_refused(stale, "unreadable", "more bytes after the samples")
            read_refused(stale + odd.id3v1(), "unreadable", "more bytes after the samples")
    expected = odd.decode(odd.wav(fmt, data))
    for behind in (
        odd.id3v1(),
        odd.id3v2(b"x" * 3000),
        odd.ape(b"x" * 3000),
        bytes(9999),
        b"x" * 999,
    ):
        np.testing.assert_array_equal(read(odd.wav(fmt, data) + behind), expected)


def test_joined_wavs_are_found_where_no_byte_pads_an_odd_one(read):
    one, two = (odd.wav(*chunks(odd.voice(n), "PCM_U8")) for n in (3001, 2001))
    one, two = one[:-1], two[:-1]
    expected = np.concatenate([odd.decode(one), odd.decode(two)])
    np.testing.assert_array_equal(read(one + two), expected)


def test_corpora_hold_the_true_durations(tmp_path):
    from tools.speech.corpus import read_corpus

    chapter = tmp_path / "1" / "2"
    chapter.mkdir(parents=True)
    bare, num_samples = odd.mp3_without_header(mp3(3.0, bitrate_mode="VARIABLE"))
    flac = odd.encode(odd.voice(30000), RATE_HZ, "FLAC", "PCM_16")
    files = {"1-2-0.mp3": bare, "1-2-1.flac": odd.flac_without_length(flac), "1-2-2.flac": 2 * flac}
    for name, data in files.items():
        (chapter / name).write_bytes(data)
    (chapter / "1-2.trans.txt").write_text("1-2-0 A\n1-2-1 B\n1-2-2 C\n")
    found = read_corpus(tmp_path, limits=LIMITS, progress=False)
    assert [u.num_samples for u in found.utterances] == [num_samples, 30000, 60000]
    assert [u.decoder for u in found.utterances] == ["python"] * 3


def test_files_beside_the_project(shared_data):
    """Samples of each kind, made by other programs; their README says what they are."""
    folder = shared_data / "reported" / "sound"
    one, both = 78662, 78662 + 38647
    lengths = {
        "01_unknown_total.flac": one,
        "01_ffmpeg_pipe.flac": one,
        "02_data_size_0.wav": 38647,
        "x3_two_files_joined.flac": both,
        "x3_two_files_joined.mp3": both,
        "x3_two_files_joined.ogg": both,
        "x3_two_files_joined.opus": both,
    }
    for name, num_samples in lengths.items():
        assert audio.probe(folder / name, LIMITS).num_samples == num_samples
        assert len(audio.read(folder / name, LIMITS)) == num_samples
    for name in ("x1_vbr_without_xing.mp3", "x2_cbr_without_xing.mp3"):
        assert one <= len(audio.read(folder / name, LIMITS)) <= one + 3 * 576
    assert len(audio.read(folder / "x1_vbr_without_xing_quiet_start.mp3", LIMITS)) == 175727
