"""The decision table for sound files: each row, each refusal, and one outcome on every path."""

import faulthandler
import os
import random
import re
import struct
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tests.support.errors import refused
from tools.files import one_line
from tools.speech import audio, graph_audio

RATE_HZ = 16000
NUM_SAMPLES = 20000
LIMITS = audio.AudioLimits()


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch):
    """What only ffmpeg decodes is `test_ffmpeg.py`'s."""
    monkeypatch.setenv("PATH", "/nowhere")


def voice(num_samples=NUM_SAMPLES, num_channels=1):
    """Something like speech, another on each channel, without a block of zeros."""
    rng = np.random.default_rng(7)
    time = np.arange(num_samples)[:, None] * (0.03 + 0.01 * np.arange(num_channels))
    return 0.4 * np.sin(time) + 0.05 * rng.standard_normal((num_samples, num_channels))


def encoded(path, container="WAV", encoding="PCM_16", rate_hz=RATE_HZ, samples=None):
    soundfile.write(
        path, voice() if samples is None else samples, rate_hz, format=container, subtype=encoding
    )
    return Path(path).read_bytes()


def wav(
    samples, *, chunks=b"", data_bytes=None, riff_bytes=None, fmt=(1, 1, RATE_HZ, 32000, 2, 16)
):
    """A WAV put together by hand, so that its header may lie."""
    data = samples.tobytes()
    data_bytes = len(data) if data_bytes is None else data_bytes
    body = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, *fmt) + chunks
    body += b"data" + struct.pack("<I", data_bytes) + data
    return b"RIFF" + struct.pack("<I", len(body) if riff_bytes is None else riff_bytes) + body


def flipped(data, position, num_bytes=1):
    damaged = bytearray(data)
    for index in range(position, position + num_bytes):
        damaged[index] ^= 0x5A
    return bytes(damaged)


# ---------------------------------------------------------------------------------------------
# Files that are fine: name -> (container, encoding, rate, channels, decoder).
ACCEPTED = {
    "flac_16": ("FLAC", "PCM_16", RATE_HZ, 1, "graph_flac"),
    "flac_8": ("FLAC", "PCM_S8", RATE_HZ, 1, "python"),
    "flac_24": ("FLAC", "PCM_24", RATE_HZ, 1, "python"),
    "flac_stereo": ("FLAC", "PCM_16", RATE_HZ, 2, "python"),
    "flac_48k_stereo_24": ("FLAC", "PCM_24", 48000, 2, "python"),
    "wav_16": ("WAV", "PCM_16", RATE_HZ, 1, "graph_wav"),
    "wav_u8": ("WAV", "PCM_U8", RATE_HZ, 1, "python"),
    "wav_24": ("WAV", "PCM_24", RATE_HZ, 1, "python"),
    "wav_32": ("WAV", "PCM_32", RATE_HZ, 1, "python"),
    "wav_float": ("WAV", "FLOAT", RATE_HZ, 1, "python"),
    "wav_double": ("WAV", "DOUBLE", RATE_HZ, 1, "python"),
    "wav_ulaw": ("WAV", "ULAW", RATE_HZ, 1, "python"),
    "wav_alaw": ("WAV", "ALAW", RATE_HZ, 1, "python"),
    "wav_adpcm": ("WAV", "IMA_ADPCM", RATE_HZ, 1, "python"),
    "wavex_16": ("WAVEX", "PCM_16", RATE_HZ, 1, "python"),
    "wav_stereo": ("WAV", "PCM_16", RATE_HZ, 2, "python"),
    "wav_six_channels": ("WAV", "PCM_16", RATE_HZ, 6, "python"),
    "wav_8k": ("WAV", "PCM_16", 8000, 1, "python"),
    "wav_44k1": ("WAV", "PCM_16", 44100, 1, "python"),
    "wav_48k": ("WAV", "PCM_16", 48000, 1, "python"),
    "aiff_16": ("AIFF", "PCM_16", RATE_HZ, 1, "python"),
    "au_16": ("AU", "PCM_16", RATE_HZ, 1, "python"),
    "nist_16": ("NIST", "PCM_16", RATE_HZ, 1, "python"),
    "nist_ulaw": ("NIST", "ULAW", 8000, 2, "python"),
    "ogg_vorbis": ("OGG", "VORBIS", RATE_HZ, 1, "python"),
    "ogg_opus": ("OGG", "OPUS", RATE_HZ, 1, "python"),
    "mp3": ("MP3", "MPEG_LAYER_III", RATE_HZ, 1, "python"),
}


def refused_and_odd(folder):
    """Files by hand: name -> (bytes, the reason they are refused for, or "" when they are fine)."""
    good = {
        name: (folder / name).read_bytes()
        for name in ("flac_16", "wav_16", "aiff_16", "ogg_vorbis", "mp3")
    }
    flac, ogg = good["flac_16"], good["ogg_vorbis"]
    pages = [match.start() for match in re.finditer(b"OggS", ogg)]
    assert len(pages) > 3
    pcm = (voice()[:, 0] * 32767).astype(np.int16)
    floats = voice()[:, 0].astype(np.float32)
    not_a_number, infinite, one_too_large = floats.copy(), floats.copy(), floats.copy()
    not_a_number[777] = np.nan
    infinite[:2] = np.inf, -np.inf
    one_too_large[777] = 1e10
    float_format = (3, 1, RATE_HZ, 4 * RATE_HZ, 4, 32)
    last_frame = flac.rindex(b"\xff\xf8\x75")  # the one that says its own length, at 16 kHz
    streamed_flac = bytearray(flac)
    streamed_flac[21] &= 0xF0
    streamed_flac[22:26] = bytes(4)
    hour_flac = bytearray(flac)
    hour_flac[22:26] = struct.pack(">I", 3600 * RATE_HZ)
    return {
        "zero_bytes": (b"", "empty"),
        "one_byte": (b"\xff", "unreadable"),
        "text": (b"this is no sound\n" * 60, "unreadable"),
        "html": (b"<html><body>404</body></html>", "unreadable"),
        "random": (random.Random(1).randbytes(4096), "unreadable"),
        "random_like_mp3": (b"\xff\xfb\x90\x64" + random.Random(2).randbytes(99999), "unreadable"),
        "random_after_id3": (b"ID3\4\0\0\0\0\0 " + random.Random(3).randbytes(5000), "unreadable"),
        "only_magic_flac": (b"fLaC", "unreadable"),
        "only_magic_wav": (b"RIFF\xff\xff\xff\xffWAVE", "unreadable"),
        "only_magic_ogg": (b"OggS", "unreadable"),
        "unsupported_rf64": (b"RF64" + good["wav_16"][4:], "unsupported"),
        "flac_cut": (flac[: len(flac) * 2 // 5], "unreadable"),
        "flac_cut_short": (flac[:-5], "unreadable"),
        "flac_lost_last_frame": (flac[:last_frame], "truncated"),
        "flac_damaged_middle": (flipped(flac, len(flac) // 2, 200), "unreadable"),
        "flac_one_byte_wrong": (flipped(flac, len(flac) // 2), "unreadable"),
        "flac_last_frame_wrong": (flipped(flac, len(flac) - 300), "unreadable"),
        "flac_without_length": (bytes(streamed_flac), ""),
        "flac_junk_after_metadata": (flac[:4] + b"\x80" + flac[5:], "unreadable"),
        "flac_hour_long": (bytes(hour_flac), "too_long"),
        "flac_after_id3": (b"ID3\4\0\0\0\0\0 " + bytes(32) + flac, ""),
        "flac_and_junk": (flac + random.Random(4).randbytes(5000), ""),
        "wav_header_only": (wav(pcm[:0], data_bytes=30978), "truncated"),
        "wav_no_samples": (wav(pcm[:0]), "empty"),
        "wav_no_data": (wav(pcm)[:36], "unreadable"),
        "wav_half": (wav(pcm[:9000], data_bytes=36000), "truncated"),
        "wav_last_sample_lost": (wav(pcm)[:-2], "truncated"),
        "wav_after_odd_chunk": (wav(pcm, chunks=b"LIST\3\0\0\0abc\0"), ""),
        "wav_half_after_odd_chunk": (
            wav(pcm[:9000], chunks=b"LIST\3\0\0\0abc\0", data_bytes=36000),
            "truncated",
        ),
        "wav_and_junk": (wav(pcm) + b"junk" * 100, ""),
        "wav_streamed_ffmpeg": (wav(pcm, data_bytes=2**32 - 1, riff_bytes=2**32 - 1), ""),
        "wav_streamed_sox": (wav(pcm, data_bytes=0x7FFFF000, riff_bytes=0x7FFFF024), ""),
        "wav_many_chunks": (wav(pcm, chunks=b"junk\0\0\0\0" * 2000), "unreadable"),
        "wav_ten_samples": (wav(pcm[:10]), "too_short"),
        "wav_399_samples": (wav(pcm[:399]), "too_short"),
        "wav_400_samples": (wav(pcm[:400]), ""),
        "wav_35_seconds": (wav(np.resize(pcm, 35 * RATE_HZ)), ""),
        "wav_36_seconds": (wav(np.resize(pcm, 36 * RATE_HZ)), "too_long"),
        "wav_1hz": (wav(pcm[:50], fmt=(1, 1, 1, 2, 2, 16)), "rate"),
        "wav_over_range": (wav(8 * floats, fmt=float_format), ""),
        "wav_nan": (wav(not_a_number, fmt=float_format), "non_finite"),
        "wav_infinite": (wav(infinite, fmt=float_format), "non_finite"),
        "wav_one_sample_1e10": (wav(one_too_large, fmt=float_format), "implausible"),
        "wav_scale_of_integers": (wav(32768 * floats, fmt=float_format), "implausible"),
        "wav_30_db_above": (wav(32 * floats / np.abs(floats).max(), fmt=float_format), ""),
        "wav_silence": (wav(np.zeros(32000, np.int16)), ""),
        "wav_constant": (wav(np.full(16000, 8192, np.int16)), ""),
        "wav_full_scale": (wav(np.array([-32768, 32767] * 400, np.int16)), ""),
        "aiff_half": (good["aiff_16"][: len(good["aiff_16"]) // 2], "truncated"),
        "ogg_last_page_lost": (ogg[: ogg.rindex(b"OggS")], "truncated"),
        "ogg_middle_page_lost": (ogg[: pages[2]] + ogg[pages[3] :], "truncated"),
        "ogg_cut": (ogg[:-100], "truncated"),
        "ogg_damaged": (flipped(ogg, len(ogg) - 500), "unreadable"),
        "mp3_half": (good["mp3"][: len(good["mp3"]) // 2], "truncated"),
        "mp3_named.wav": (good["mp3"], ""),
        "ogg_named.flac": (ogg, ""),
        "wav_named.raw": (wav(pcm), ""),
        "space and ümlaut.FLAC": (flac, ""),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for name, (container, encoding, rate_hz, num_channels, _) in ACCEPTED.items():
        encoded(folder / name, container, encoding, rate_hz, voice(num_channels=num_channels))
    soundfile.write(folder / "flac_silence", np.zeros(30000), RATE_HZ, format="FLAC")
    return folder


@pytest.fixture(scope="module")
def cases(folder):
    """Every file and the reason it is refused for."""
    reasons = dict.fromkeys(ACCEPTED, "") | {"flac_silence": ""}
    for name, (data, reason) in refused_and_odd(folder).items():
        (folder / name).write_bytes(data)
        reasons[name] = reason
    (folder / "folder.flac").mkdir()
    os.mkfifo(folder / "pipe.wav")
    (folder / "dangling.flac").symlink_to(folder / "nowhere")
    (folder / "link.flac").symlink_to(folder / "flac_16")
    return reasons | {
        "folder.flac": "not_a_file",
        "pipe.wav": "not_a_file",
        "dangling.flac": "missing",
        "link.flac": "",
        "absent.flac": "missing",
    }


def decoder_of(path):
    try:
        return audio.probe(path).decoder
    except audio.AudioError:
        return "python"


def by_reading(path, limits=LIMITS):
    """A single file: (waveform, reason)."""
    try:
        return audio.read(path, limits), ""
    except audio.AudioError as error:
        assert error.path == str(path)
        assert error.reason in audio.REASONS
        assert one_line(path) in str(error)
        assert "\n" not in str(error)
        return np.zeros(0, np.float32), error.reason


def by_pipeline(paths, decoders, limits=LIMITS):
    """Many files, as in training: [(waveform, reason)]."""
    rows = tf.data.Dataset.from_tensor_slices(([str(path) for path in paths], decoders))
    elements = rows.interleave(
        lambda path, decoder: graph_audio.utterance_dataset(path, decoder, limits),
        cycle_length=4,
        num_parallel_calls=4,
        deterministic=True,
    )
    faulthandler.dump_traceback_later(120, exit=True)  # an op that spins cannot be interrupted
    try:
        return [
            (element["waveform"].numpy(), element["reason"].numpy().decode())
            for element in elements
        ]
    finally:
        faulthandler.cancel_dump_traceback_later()


def assert_same_outcome(paths, reasons):
    single = [by_reading(path) for path in paths]
    assert {path.name: reason for path, (_, reason) in zip(paths, single, strict=True)} == {
        path.name: reason for path, reason in zip(paths, reasons, strict=True)
    }
    for decoders in ([decoder_of(path) for path in paths], ["python"] * len(paths)):
        outcomes = by_pipeline(paths, decoders)
        assert len(outcomes) == len(paths)
        for path, alone, inside in zip(paths, single, outcomes, strict=True):
            assert inside[1] == alone[1], path
            assert inside[0].dtype == np.float32
            np.testing.assert_array_equal(inside[0], alone[0], err_msg=str(path))
            assert np.isfinite(alone[0]).all()
            if not alone[1]:
                assert len(alone[0]) == audio.probe(path).num_samples


def test_single_file_and_pipeline_agree_on_every_file(folder, cases, capfd):
    assert_same_outcome([folder / name for name in cases], list(cases.values()))
    noise = capfd.readouterr().err.replace("ErrorCallback: \n", "")  # tensorflow-io's own
    assert noise == ""


@pytest.mark.parametrize("name", ACCEPTED)
def test_row_of_the_table(folder, name):
    container, encoding, rate_hz, num_channels, decoder = ACCEPTED[name]
    info = audio.probe(folder / name)
    assert (info.container, info.encoding, info.decoder) == (container, encoding, decoder)
    assert (info.rate_hz, info.channels) == (rate_hz, num_channels)
    assert info.num_samples == int(np.ceil(info.duration_seconds * RATE_HZ - 1e-6))
    samples, _ = soundfile.read(folder / name, dtype="float32", always_2d=True)
    expected = samples.mean(axis=1)
    if rate_hz != RATE_HZ:
        expected = librosa.resample(
            expected, orig_sr=rate_hz, target_sr=RATE_HZ, res_type="soxr_hq", fix=False
        )
    result = audio.read(folder / name)
    assert len(result) == info.num_samples
    assert abs(len(expected) - len(result)) <= 1
    tolerance = 1e-6 if container == "MP3" else 0  # mpg123 rounds by the size of the request
    np.testing.assert_allclose(
        result[: len(expected)], expected[: len(result)], rtol=0, atol=tolerance
    )


def test_resampled_voice_keeps_its_length_and_pitch(tmp_path):
    for rate_hz in (8000, 11025, 22050, 44100, 48000, 96000):
        time = np.arange(rate_hz + 7) / rate_hz
        encoded(tmp_path / "tone", rate_hz=rate_hz, samples=0.5 * np.sin(2 * np.pi * 440 * time))
        result = audio.read(tmp_path / "tone")
        assert len(result) == -(-(rate_hz + 7) * RATE_HZ // rate_hz)
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)
        np.testing.assert_allclose(result[800:15200], expected[800:15200], atol=2e-3)


def test_channels_are_averaged(tmp_path):
    one, two = voice(8000, 2).T
    encoded(tmp_path / "two.wav", encoding="FLOAT", samples=np.stack([one, two], axis=1))
    np.testing.assert_allclose(audio.read(tmp_path / "two.wav"), (one + two) / 2, atol=1e-6)


def test_floats_out_of_range_stay_as_they_are(folder, cases):
    assert np.abs(audio.read(folder / "wav_over_range")).max() > 3


def test_arrays_and_streams_refuse_implausible_samples_as_files_do(folder, cases):
    for scale, reason in ((32.0, None), (-32.1, "implausible")):
        waveform = np.full(8000, 0.5, np.float32)
        waveform[4000] = scale
        encoded(folder / "scaled.wav", encoding="FLOAT", samples=waveform)
        readers = (
            lambda waveform=waveform: audio.load(waveform, rate_hz=RATE_HZ),
            lambda: np.concatenate([*audio.stream(folder / "scaled.wav")]),
        )
        for read in readers:
            if reason is None:
                assert read()[4000] == scale
                continue
            with refused(match="32.1.*Scale the samples", error=audio.AudioError) as caught:
                read()
            assert caught.value.reason == reason


def test_overflow_in_the_channel_mean_is_not_finite(tmp_path):
    samples = np.full((16000, 2), 3e38, np.float32)
    encoded(tmp_path / "loud.wav", encoding="FLOAT", samples=samples)
    with refused("loud.wav", error=audio.AudioError) as caught:
        audio.read(tmp_path / "loud.wav")
    assert caught.value.reason == "non_finite"


def test_many_channels_are_read_in_pieces(tmp_path, monkeypatch):
    sizes, read = [], soundfile.SoundFile.read

    def recorded(self, frames=-1, *given, **options):
        sizes.append(frames)
        return read(self, frames, *given, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", recorded)
    for container, num_channels in (("WAV", 7), ("FLAC", 2), ("OGG", 2)):
        path = tmp_path / container
        encoding = "VORBIS" if container == "OGG" else "PCM_16"
        encoded(path, container, encoding, samples=voice(num_channels=num_channels))
        expected = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
        sizes.clear()
        np.testing.assert_array_equal(audio.read(path, block_values=1000), expected)
        assert max(sizes) == 1000 // num_channels
        assert len(sizes) > NUM_SAMPLES * num_channels // 1000


def test_damaged_flacs_never_hang_and_agree(tmp_path):
    rng = random.Random(5)
    flac = encoded(tmp_path / "good", "FLAC")
    paths = []
    for number in range(120):
        data, position = bytearray(flac), rng.randrange(42, len(flac))
        kind = number % 6
        if kind == 0:
            data[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data = data[:position]
        elif kind == 2:
            data = data[: len(data) - rng.randrange(1, 40)]
        elif kind == 3:
            data[position : position + 200] = bytes(len(data[position : position + 200]))
        elif kind == 4:
            del data[position : position + 30]
        else:
            data[rng.randrange(4, 42)] ^= 1 << rng.randrange(8)
        paths.append(tmp_path / f"{number}.flac")
        paths[-1].write_bytes(data)
    reasons = [by_reading(path)[1] for path in paths]
    assert reasons.count("unreadable") > 90
    assert_same_outcome(paths, reasons)


def crc(data, polynomial, num_bits):
    remainder = 0
    for byte in data:
        remainder ^= byte << (num_bits - 8)
        for _ in range(8):
            remainder = (remainder << 1) ^ (polynomial if remainder >> (num_bits - 1) else 0)
            remainder &= (1 << num_bits) - 1
    return remainder


def test_the_guard_is_a_valid_frame():
    """RFC 9639, sections 9.1.8 and 9.3: a frame that is not valid would be searched over."""
    frame = graph_audio.FLAC_GUARD[:17]
    assert frame * (len(graph_audio.FLAC_GUARD) // 17) == graph_audio.FLAC_GUARD
    assert len(graph_audio.FLAC_GUARD) > 4 * audio.GRAPH_FLAC_MAX_BLOCK_SAMPLES
    assert frame[11] == crc(frame[:11], 0x07, 8)
    assert int.from_bytes(frame[15:], "big") == crc(frame[:15], 0x8005, 16)


def test_probe_and_limits_decode_nothing(folder, cases, monkeypatch):
    def decode(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", decode)
    for name, reason in cases.items():
        if reason in ("too_long", "too_short", "rate", "empty", "missing", "not_a_file"):
            assert by_reading(folder / name)[1] == reason
    assert audio.probe(folder / "flac_16").num_samples == NUM_SAMPLES


def test_other_limits(folder):
    strict = audio.AudioLimits(max_seconds=1.0, min_rate_hz=RATE_HZ)
    assert by_reading(folder / "flac_16", strict)[1] == "too_long"
    assert by_reading(folder / "wav_8k", strict)[1] == "rate"
    low = audio.AudioLimits(rate_hz=8000)
    assert audio.probe(folder / "wav_8k", low).decoder == "graph_wav"
    assert audio.probe(folder / "flac_16", low).decoder == "python"
    paths, decoders = [folder / "flac_16"] * 2, ["graph_flac", "python"]
    assert [reason for _, reason in by_pipeline(paths, decoders, strict)] == ["too_long"] * 2


def test_limits_in_seconds_are_the_nearest_sample(tmp_path):
    seconds = 4004 / RATE_HZ
    assert seconds * RATE_HZ < 4004  # by a rounding error
    only = audio.AudioLimits(min_seconds=seconds, max_seconds=seconds)
    paths = [tmp_path / f"{size}.wav" for size in (4003, 4004, 4005)]
    for path in paths:
        encoded(path, samples=voice(int(path.stem)))
    reasons = ["too_short", "", "too_long"]
    assert [by_reading(path, only)[1] for path in paths] == reasons
    for decoder in ("graph_wav", "python"):
        assert [reason for _, reason in by_pipeline(paths, [decoder] * 3, only)] == reasons


def test_no_permission(folder, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(audio.os, "open", refuse)
    with refused("flac_16: Permission denied", error=audio.AudioError) as caught:
        audio.read(folder / "flac_16")
    assert caught.value.reason == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_no_permission_for_real(tmp_path):
    encoded(tmp_path / "secret.wav")
    (tmp_path / "secret.wav").chmod(0)
    assert by_reading(tmp_path / "secret.wav")[1] == "unreadable"


def test_paths_that_no_file_can_have(tmp_path):
    for path in ("nul\0byte.wav", str(tmp_path / ("x" * 300)), str(tmp_path / "a" / "b.wav")):
        assert by_reading(path)[1] in ("missing", "unreadable")
    encoded(tmp_path / "good.wav")
    assert by_reading(str(tmp_path / "good.wav" / "below.wav"))[1] == "missing"


def test_messages_of_the_mp3_decoder_stay_inside(tmp_path, capfd):
    mp3 = encoded(tmp_path / "good.mp3", "MP3", "MPEG_LAYER_III")
    (tmp_path / "damaged.mp3").write_bytes(flipped(mp3, len(mp3) // 2, 60))
    soundfile.read(tmp_path / "damaged.mp3")
    assert capfd.readouterr().err  # else nothing has to be kept quiet any more
    by_reading(tmp_path / "damaged.mp3")
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


# What the manifest of the broken files beside the project asks for; all others there are fine.
SHARED_REASONS = {
    "truncated.flac": "unreadable",
    "corrupt_middle.flac": "unreadable",
    "zero_bytes.flac": "empty",
    "zero_bytes.wav": "empty",
    "text.flac": "unreadable",
    "html_error_page.wav": "unreadable",
    "random_bytes.wav": "unreadable",
    "directory.flac": "not_a_file",
    "truncated.wav": "truncated",
    "header_only_44_bytes.wav": "truncated",
    "rate_1hz.wav": "rate",
    "nan_float.wav": "non_finite",
    "inf_float.wav": "non_finite",
    "zero_length.wav": "empty",
    "zero_length.flac": "empty",
    "ten_samples.wav": "too_short",
    "ten_samples.flac": "too_short",
    "one_hour_silence.flac": "too_long",
}


def test_broken_files_beside_the_project(shared_data):
    paths = sorted((shared_data / "bad_inputs" / "audio").iterdir())
    assert len(paths) == 34
    assert_same_outcome(paths, [SHARED_REASONS.get(path.name, "") for path in paths])


def test_graph_decoders_read_real_speech_bit_for_bit(shared_data):
    paths = sorted((shared_data / "librispeech_samples" / "test-clean").rglob("*.flac"))
    assert {audio.probe(path).decoder for path in paths} == {"graph_flac"}
    assert_same_outcome(paths, [""] * len(paths))
    for path in paths[:2]:
        waveform = graph_audio.decode_in_graph(tf.constant(str(path)), tf.constant("graph_flac"))
        np.testing.assert_array_equal(waveform, soundfile.read(path, dtype="float32")[0])


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "channels"),
    [(".flac", 16000, 1), (".wav", 8000, 2), (".flac", 44100, 1), (".wav", 11025, 1)],
)
def test_a_stream_is_what_is_read_at_once(tmp_path, rng, suffix, rate_hz, channels):
    path = tmp_path / f"sound{suffix}"
    sound = 0.1 * rng.standard_normal((int(23.4567 * rate_hz), channels))
    soundfile.write(path, sound, rate_hz)
    pieces = list(audio.stream(path))
    assert len(pieces) >= 3
    assert max(map(len, pieces)) <= 2 * 16000
    np.testing.assert_allclose(np.concatenate(pieces), audio.read(path), atol=1e-5)


@pytest.mark.parametrize("encoding", ["VORBIS", "OPUS"])
def test_an_ogg_that_lost_any_of_its_pages_is_refused(tmp_path, encoding):
    ogg = encoded(tmp_path / "good.ogg", "OGG", encoding, samples=voice(5 * RATE_HZ))
    pages = [match.start() for match in re.finditer(b"OggS", ogg)] + [len(ogg)]
    assert len(pages) > 6
    for number in range(len(pages) - 1):
        damaged = ogg[: pages[number]] + ogg[pages[number + 1] :]
        (tmp_path / "damaged.ogg").write_bytes(damaged)
        assert by_reading(tmp_path / "damaged.ogg")[1] in ("truncated", "unreadable")
        with refused("damaged.ogg", error=audio.AudioError):
            list(audio.stream(tmp_path / "damaged.ogg"))


@pytest.mark.parametrize("encoding", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("damage", ["flipped", "lost", "zeros", "cut"])
def test_a_stream_of_an_ogg_has_what_is_before_the_damage(tmp_path, encoding, damage):
    ogg = encoded(tmp_path / "good.ogg", "OGG", encoding, samples=voice(12 * RATE_HZ))
    pages = [match.start() for match in re.finditer(b"OggS", ogg)]
    first = len(pages) // 2
    start, stop = pages[first], pages[first + 1]
    path = tmp_path / "damaged.ogg"
    path.write_bytes(
        {
            "flipped": flipped(ogg, start + 200),
            "lost": ogg[:start] + ogg[stop:],
            "zeros": ogg[:start] + bytes(stop - start) + ogg[stop:],
            "cut": ogg[: start + 200],
        }[damage]
    )
    whole, found = audio.read(tmp_path / "good.ogg"), []
    with refused("damaged.ogg", error=audio.AudioError) as caught:
        found.extend(audio.stream(path))
    assert caught.value.reason == ("unreadable" if damage == "flipped" else "truncated")
    heard = np.concatenate(found)
    assert len(whole) / 4 < len(heard) < 3 * len(whole) / 4
    np.testing.assert_allclose(heard[:-2000], whole[: len(heard) - 2000], atol=1e-4)
    for strict in (audio.read, lambda path: audio.read(path.read_bytes())):
        with refused("damaged.ogg" if strict is audio.read else "the bytes"):
            strict(path)
    declared = audio.probe(path, accept_damage=True).num_samples
    if damage == "cut":
        assert declared == pytest.approx(len(heard), abs=2000)
    else:
        assert declared == pytest.approx(len(whole), abs=2000)


@pytest.mark.parametrize(
    ("container", "encoding"), [("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("MP3", "MPEG_LAYER_III")]
)
def test_a_stream_of_a_file_that_breaks_off_has_what_is_there(tmp_path, container, encoding):
    whole = encoded(tmp_path / "good", container, encoding, samples=voice(6 * RATE_HZ))
    path = tmp_path / "cut"
    path.write_bytes(whole[: len(whole) // 2 + 7])
    found, expected = [], audio.read(tmp_path / "good")
    with refused("cut: ", error=audio.AudioError) as caught:
        found.extend(audio.stream(path))
    assert caught.value.reason == "truncated"
    heard = np.concatenate(found)
    assert len(heard) == audio.probe(path, accept_damage=True).num_samples
    assert len(heard) == pytest.approx(3 * RATE_HZ, abs=2000)
    # Without the header that was written for the whole file, MP3 begins with the encoder's delay.
    delay = np.correlate(heard[:8000], expected[:4000]).argmax() if container == "MP3" else 0
    size = len(heard) - 2000 - delay
    np.testing.assert_allclose(heard[delay : delay + size], expected[:size], atol=1e-3)
    for strict in (audio.probe, audio.read):
        with refused("cut: ", error=audio.AudioError):
            strict(path)


def test_a_stream_refuses_what_is_damaged(tmp_path):
    path = tmp_path / "sound.flac"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(16000 * 12), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with refused("sound.flac", error=audio.AudioError):
        list(audio.stream(path))
    sound = np.zeros(16000 * 12, np.float32)
    sound[-5] = np.nan
    soundfile.write(tmp_path / "nan.wav", sound, 16000, subtype="FLOAT")
    with refused("NaN", error=audio.AudioError):
        list(audio.stream(tmp_path / "nan.wav"))


def test_no_file_stays_open(tmp_path):
    """Not after sound, not after a refusal, and not when a stream is left before its end."""
    good, damaged = tmp_path / "good.flac", tmp_path / "damaged.flac"
    soundfile.write(good, np.zeros(16000 * 25, np.float32), 16000)
    damaged.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    audio.read(good)  # what is opened once and kept is open now
    before = os.listdir("/proc/self/fd")
    for source in (good, good.read_bytes()):
        audio.probe(source)
        audio.read(source)
    next(pieces := audio.stream(good))
    pieces.close()
    for source in (damaged, damaged.read_bytes(), b"", b"no sound at all"):
        with pytest.raises(audio.AudioError):
            audio.read(source)
    assert os.listdir("/proc/self/fd") == before
