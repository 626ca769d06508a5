"""Sounds that only ffmpeg decodes: named without it, decoded with it, by a program in its place."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.support import odd_sounds as odd
from tests.support.errors import refused
from tools.speech import audio, ffmpeg

RATE_HZ = 16000
HEADS = {
    "MP4": (b"\0\0\0\x1cftypM4A \0\0\0\0", "mov"),
    "AAC": (b"\xff\xf1\x60\x40\x47\x7f\xfc", "aac"),
    "WebM": (b"\x1aE\xdf\xa3\x9fB\x86\x81", "matroska"),
    "AMR": (b"#!AMR\n", "amr"),
    "WMA": (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "asf"),
    "RF64": (b"RF64\xff\xff\xff\xffWAVEds64", "wav"),
    "W64": (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", "w64"),
    "CAF": (b"caff\0\1\0\0desc", "caf"),
    "AVI": (b"RIFF\0\0\0\0AVI LIST", "avi"),
    "Ogg Speex": (b"OggS\0\2" + bytes(22) + b"Speex   1.2", "ogg"),
    "Ogg FLAC": (b"OggS\0\2" + bytes(22) + b"\x7fFLAC\1\0", "ogg"),
    "Ogg video": (b"OggS\0\2" + bytes(22) + b"\x80theora", "ogg"),
    "MPEG-TS": ((b"G" + bytes(187)) * 3, "mpegts"),
    "RealMedia": (b".RMF\0\0\0\x12", "rm"),
    "VOC": (b"Creative Voice File\x1a", "voc"),
    "TTA": (b"TTA1\1\0", "tta"),
    "AC-3": (b"\x0b\x77", "ac3"),
    "DTS": (b"\x7f\xfe\x80\1", "dts"),
    "DSF": (b"DSD \x1c", "dsf"),
    "Shorten": (b"ajkg\2", "shn"),
    "Musepack": (b"MPCKSH", "mpc8"),
    "TAK": (b"tBaK", "tak"),
    "compressed WAV": (b"RIFF\0\0\0\0WAVEfmt \x12\0\0\0\x45\0", "wav"),
    "compressed NIST SPHERE": (
        b"NIST_1A\n   1024\nsample_count -i 99\nsample_coding -s26 pcm,embedded-shorten-v2.00\n",
        "nistsphere",
    ),
}
STAND_IN = """#!{python} -SE
import json, os, sys, time
here, (name, *words) = os.path.dirname(__file__), sys.argv
with open(here + "/calls", "a") as file:
    data = open(words[words.index("-i") + 1], "rb").read()
    file.write(json.dumps([words, len(data), os.getpid()]) + "\\n")
what = open(here + "/what").read()
answer = open(here + "/answer.wav", "rb").read()
if what == "fail":
    sys.exit("moov atom not found")
if what == "complain":
    print("Error while decoding", file=sys.stderr)
if what == "hang":
    time.sleep(60)
sys.stdout.buffer.write(answer)
while what == "endless":
    sys.stdout.buffer.write(bytes(1 << 16))
"""


@pytest.fixture
def no_ffmpeg(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


class StandIn:
    """A program called ffmpeg that answers with a WAV, and remembers how it was called."""

    def __init__(self, folder):
        self.folder = folder
        self.sound = odd.voice(3 * RATE_HZ, 2).astype(np.float32)
        wav = odd.wav_chunks(odd.encode(self.sound, RATE_HZ, "WAV", "FLOAT"))
        streamed = {"data_bytes": 0xFFFFFFFF, "riff_bytes": 0xFFFFFFFF}
        (folder / "answer.wav").write_bytes(odd.wav(wav[b"fmt "], wav[b"data"], **streamed))
        self.does("answer")
        program = folder / "ffmpeg"
        program.write_text(STAND_IN.format(python=sys.executable))
        program.chmod(0o755)

    def does(self, what):
        (self.folder / "what").write_text(what)

    @property
    def calls(self):
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return StandIn(tmp_path / "bin")


def write(tmp_path, kind="MP4", name="sound of a phone.m4a"):
    (tmp_path / name).write_bytes(HEADS[kind][0] + bytes(2000))
    return tmp_path / name


@pytest.mark.parametrize("kind", HEADS)
def test_kinds_are_named_with_the_way_out(tmp_path, no_ffmpeg, kind):
    path = write(tmp_path, kind)
    for way in (audio.probe, audio.read, lambda path: list(audio.stream(path))):
        with refused(f"{path}: {kind}. Install ffmpeg", error=audio.AudioError) as caught:
            way(path)
        assert caught.value.reason == "unsupported"
        assert f"ffmpeg -i '{path}' '{path.with_suffix('.wav')}'" in str(caught.value)
    with refused(f"the bytes: {kind}", error=audio.AudioError):
        audio.read(path.read_bytes())


@pytest.mark.parametrize("kind", HEADS)
def test_kinds_are_decoded_where_ffmpeg_is(tmp_path, stand_in, kind):
    path, expected = write(tmp_path, kind), stand_in.sound.mean(axis=1)
    info = audio.probe(path)
    assert (info.num_samples, info.duration_seconds) == (len(expected), 3.0)
    assert (info.rate_hz, info.channels, info.decoder) == (RATE_HZ, 2, "python")
    assert info.container == kind
    np.testing.assert_array_equal(audio.read(path), expected)
    np.testing.assert_array_equal(audio.read(path.read_bytes()), expected)
    np.testing.assert_array_equal(np.concatenate(list(audio.stream(path))), expected)
    for words, num_bytes, _ in stand_in.calls:
        assert num_bytes == path.stat().st_size
        flags = [words[words.index(x) + 1] for x in ("-protocol_whitelist", "-f", "-i")]
        assert flags[:2] == ["file,pipe", HEADS[kind][1]]
        assert words.index("-protocol_whitelist") < words.index("-f") < words.index("-i")
        assert os.path.isabs(flags[2])


def test_files_that_ffmpeg_reads_one_of_are_refused(tmp_path, stand_in):
    kinds = ("MP4", "AMR", "WMA", "RF64", "CAF", "AVI", "compressed WAV")
    heads = {kind: HEADS[kind][0] for kind in kinds}
    heads["W64"] = bytes.fromhex("726966662e91cf11a5d628db04c10000")
    heads["FLV"] = b"FLV\1\4\0\0\0\x09"
    heads["MP4 behind a free box"] = b"\0\0\0\x08free" + heads["MP4"]
    path = tmp_path / "sound"
    for name, head in heads.items():
        path.write_bytes(head + bytes(2000))
        assert len(audio.read(path)) == len(stand_in.sound)
        path.write_bytes(2 * (head + bytes(2000)))
        message = f"several joined {name.partition(' behind')[0]} files"
        for source in (path, path.read_bytes()):
            with refused(message, error=audio.AudioError):
                audio.read(source)


def test_a_name_is_never_a_flag_or_an_address(tmp_path, stand_in, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-y.m4a", "http:::x.m4a", "%03d.m4a"):
        path = write(tmp_path, name=name)
        assert len(audio.read(name)) == len(stand_in.sound)
        words, *_ = stand_in.calls[-1]
        assert words[words.index("-i") + 1] == str(path)


def test_the_command_that_converts_is_right_for_any_name(tmp_path, monkeypatch):
    bash = shutil.which("bash")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    for name in ("a b.m4a", "it's.m4a", "new\nline\tand tab's.m4a", "$HOME`.m4a"):
        path = write(tmp_path, name=name)
        with refused("Install ffmpeg", error=audio.AudioError) as caught:
            audio.read(path)
        words = str(caught.value).split("convert it: ffmpeg -i ")[1].removesuffix(".")
        shown = subprocess.run(
            [bash, "-c", f"printf '%s\\0' {words}"], capture_output=True, text=True, check=True
        )
        assert shown.stdout.split("\0") == [str(path), str(path.with_suffix(".wav")), ""]


def test_playlists_are_refused(tmp_path, stand_in):
    for content in ("#EXTM3U\n/etc/passwd\n", "[playlist]\nFile1=a.mp3\n", "ffconcat version 1.0"):
        path = tmp_path / "list.m4a"
        path.write_text(content)
        with refused("a playlist, not a sound", error=audio.AudioError):
            audio.read(path)
    assert not stand_in.calls


@pytest.mark.parametrize(
    ("what", "message"), [("fail", "moov atom not found"), ("complain", "Error while decoding")]
)
def test_what_ffmpeg_says_is_told(tmp_path, stand_in, what, message):
    stand_in.does(what)
    path = write(tmp_path)
    with refused(message, error=audio.AudioError) as caught:
        audio.read(path)
    assert caught.value.reason == "unreadable"
    assert caught.value.path == str(path)


@pytest.mark.parametrize(("what", "reason"), [("hang", "unreadable"), ("endless", "too_long")])
def test_time_and_samples_are_bounded_and_no_process_is_left(
    tmp_path, stand_in, monkeypatch, what, reason
):
    stand_in.does(what)
    monkeypatch.setattr(ffmpeg, "MIN_SECONDS", 0.5 if what == "hang" else 9.0)
    with refused(error=audio.AudioError) as caught:
        audio.read(write(tmp_path), audio.AudioLimits(max_seconds=4.0))
    assert caught.value.reason == reason
    ((*_, process),) = stand_in.calls
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_what_ffmpeg_decodes_keeps_to_the_limits(tmp_path, stand_in):
    path = write(tmp_path)
    for limits, reason in (
        (audio.AudioLimits(max_seconds=2.9), "too_long"),
        (audio.AudioLimits(min_seconds=3.1), "too_short"),
        (audio.AudioLimits(min_rate_hz=20000), "rate"),
    ):
        with refused("sound of a phone.m4a", error=audio.AudioError) as caught:
            audio.probe(path, limits)
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["a.m4a", "a.aac", "a.mka", "a.w64", "a.caf"])
def test_ffmpeg_itself(tmp_path, name):
    """Where it is installed."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("ffmpeg is not installed")
    sound = odd.voice(3 * RATE_HZ)
    (tmp_path / "sound.wav").write_bytes(odd.encode(sound, RATE_HZ, "WAV", "PCM_16"))
    path = tmp_path / name
    command = [program, "-loglevel", "error", "-i", tmp_path / "sound.wav", path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    found = audio.read(path)
    assert abs(len(found) - len(sound)) <= 3000  # a codec pads its last frame
    size = 2 * max(len(found), len(sound))
    correlation = np.fft.irfft(np.fft.rfft(found, size) * np.fft.rfft(sound[:, 0], size).conj())
    assert correlation.max() > 0.9 * np.square(sound).sum()
    assert correlation.argmax() < 3000  # the delay of a codec
    np.testing.assert_array_equal(audio.read(path.read_bytes()), found)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with refused(name, error=audio.AudioError):
        audio.read(path)


def sphere(samples, encoding="PCM_16", **options):
    return odd.encode(samples, RATE_HZ, "NIST", encoding, **options)


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("encoding", ["PCM_16", "PCM_24", "ULAW", "ALAW"])
def test_a_sphere_file_is_read_without_ffmpeg(tmp_path, no_ffmpeg, encoding, endian):
    sound = odd.voice(20000, 2)
    data = sphere(sound, encoding, endian=endian if encoding.startswith("PCM") else "FILE")
    assert data[:8] == b"NIST_1A\n"
    expected = odd.decode(odd.encode(sound, RATE_HZ, "WAV", encoding))
    path = tmp_path / "SA1.WAV"
    path.write_bytes(data + data)
    np.testing.assert_array_equal(audio.read(path), np.concatenate([expected, expected]))
    for content in (data, data + b"behind it", odd.id3v2(b"before") + data):
        path.write_bytes(content)
        assert audio.probe(path).num_samples == 20000
        np.testing.assert_array_equal(audio.read(path), expected)
        np.testing.assert_array_equal(np.concatenate(list(audio.stream(path))), expected)
    for content, reason in (
        (data[:-10], "truncated"),
        (data.replace(b"sample_count -i 20000", b"sample_count -i 10000"), "unreadable"),
        (data.replace(b"sample_count", b"other_fields"), "unreadable"),
        (data[:300], "truncated"),
    ):
        path.write_bytes(content)
        with refused("SA1.WAV", error=audio.AudioError) as caught:
            audio.read(path)
        assert caught.value.reason == reason


def test_an_au_file_is_read_without_ffmpeg(tmp_path, no_ffmpeg):
    sound = odd.voice(20000, 2)
    data, path = odd.encode(sound, RATE_HZ, "AU", "PCM_16"), tmp_path / "sound.au"
    expected = odd.decode(odd.encode(sound, RATE_HZ, "WAV", "PCM_16"))
    for size in (data[8:12], b"\xff\xff\xff\xff", bytes(4)):  # the last two as of a pipe
        path.write_bytes(data[:8] + size + data[12:])
        np.testing.assert_array_equal(audio.read(path), expected)
        path.write_bytes(data + path.read_bytes())
        np.testing.assert_array_equal(audio.read(path), np.concatenate([expected, expected]))
    path.write_bytes(data[:8] + (10000).to_bytes(4, "big") + data[12:])
    with refused("70000 more bytes after the samples", error=audio.AudioError):
        audio.read(path)
    for cut in (-10, 30, 20, 5):
        path.write_bytes(data[:cut])
        message = "bytes of samples" if len(data[:cut]) > 24 else "sound.au"
        for way in (audio.probe, audio.read):
            with refused(message, error=audio.AudioError):
                way(path)


def test_files_beside_the_project(shared_data, no_ffmpeg):
    folder = shared_data / "reported" / "sound"
    assert len(audio.read(folder / "07_SA1.WAV")) == 78662
    for name, kind in (("09_aac.m4a", "MP4"), ("09_adts.aac", "AAC"), ("09_opus.webm", "WebM")):
        with refused(f"{name}: {kind}. Install ffmpeg", error=audio.AudioError):
            audio.read(folder / name)


def test_files_beside_the_project_by_ffmpeg(shared_data):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    folder = shared_data / "reported" / "sound"
    for name in ("09_aac.m4a", "09_adts.aac", "09_opus.webm"):
        assert 78662 <= len(audio.read(folder / name)) <= 78662 + 2048
