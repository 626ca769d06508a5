"""Detection of sound containers by content, and access to the parts of a file."""

import contextlib
import io
import mmap
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

HEAD_BYTES = 1024  # enough to detect the kind
# Kinds that are decoded by ffmpeg, with ffmpeg's name of the demuxer: libsndfile does not read
# them, or there is no check here that they are complete.
DEMUXERS = {
    "MP4": "mov",
    "AAC": "aac",
    "WebM": "matroska",
    "AMR": "amr",
    "WMA": "asf",
    "RF64": "wav",
    "W64": "w64",
    "CAF": "caf",
    "AVI": "avi",
    "FLV": "flv",
    "WavPack": "wv",
    "Monkey's Audio": "ape",
    "Ogg Speex": "ogg",
    "Ogg FLAC": "ogg",
    "Ogg video": "ogg",
    "compressed NIST SPHERE": "nistsphere",
    "compressed WAV": "wav",
    "MPEG-TS": "mpegts",
    "RealMedia": "rm",
    "VOC": "voc",
    "TTA": "tta",
    "AC-3": "ac3",
    "DTS": "dts",
    "DSF": "dsf",
    "Shorten": "shn",
    "Musepack": "mpc8",
    "TAK": "tak",
}
# First bytes of those kinds for which ffmpeg, in a file of several joined sounds, reads only the
# first one without an error.
_BEGINNINGS = {
    "MP4": rb"\0\0\0[\x10-\x80]ftyp[ -~]{4}",
    "AMR": rb"#!AMR(-WB)?\n",
    "WMA": re.escape(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),
    "RF64": rb"(RF64|BW64)\xff{4}WAVE",
    "W64": rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1",
    "CAF": rb"caff\0\x01\0\0desc",
    "AVI": rb"RIFF.{4}AVI LIST",
    "FLV": rb"FLV\x01[\x01\x04\x05]\0\0\0\x09",
    "compressed WAV": rb"RIFF.{4}WAVEfmt ",
}
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")  # first box of an MP4 file
# Numbers of the WAV codecs that libsndfile decodes: PCM, ADPCM, float, G.711, GSM and NMS.
_WAV_CODECS = {1, 2, 3, 6, 7, 0x11, 0x31, 0x38, 0x40}
_MAGIC = (
    (0, b"fLaC", "FLAC"),
    (0, b"\x1aE\xdf\xa3", "WebM"),
    (0, b"#!AMR", "AMR"),
    (0, bytes.fromhex("3026b2758e66cf11"), "WMA"),
    (0, b"RF64", "RF64"),
    (0, b"BW64", "RF64"),
    (0, b"riff\x2e\x91\xcf\x11", "W64"),
    (0, b"caff", "CAF"),
    (0, b".snd", "AU"),
    (0, b"FLV\1", "FLV"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b".RMF", "RealMedia"),
    (0, b"Creative Voice File", "VOC"),
    (0, b"TTA1", "TTA"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"\x7f\xfe\x80\1", "DTS"),
    (0, b"DSD ", "DSF"),
    (0, b"ajkg", "Shorten"),
    (0, b"MPCK", "Musepack"),
    (0, b"tBaK", "TAK"),
)
_OGG_CODECS = {  # except Vorbis and Opus, which libsndfile decodes
    b"Speex": "Ogg Speex",
    b"\x7fFLAC": "Ogg FLAC",
    b"\x80theo": "Ogg video",
    b"fishe": "Ogg video",
}
_PLAYLISTS = (b"#EXTM3U", b"[playlist]", b"ffconcat")
_STDERR_LOCK = threading.Lock()


class ContainerError(Exception):
    """A damaged or unknown container.

    Attributes:
        truncated: whether it is only incomplete.
        before: parts of the file in front of the damage, which can be read.
    """

    def __init__(self, message: str, *, truncated: bool = False):
        super().__init__(message)
        self.truncated = truncated
        self.before: Sequence[Part] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a file that libsndfile can read as a complete sound.

    Attributes:
        start: position of the first byte.
        stop: position after the last byte.
        head: corrected header that is read before the bytes from `start` on; may be empty.
        num_samples: number of samples in each channel; None if libsndfile gets it right.
    """

    start: int
    stop: int
    head: bytes = b""
    num_samples: int | None = None


class PartFile(io.RawIOBase):
    """A part of an open file as a file object for libsndfile."""

    def __init__(self, descriptor: int, part: Part):
        super().__init__()
        self._descriptor, self._part, self._position = descriptor, part, 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True: reading may start at any position."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Sets the position; returns it."""
        size = len(self._part.head) + self._part.stop - self._part.start
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:
        """Reads bytes at the position into a buffer; returns their number."""
        head, part, position = self._part.head, self._part, self._position
        if position < len(head):
            data = head[position : position + len(buffer)]
        else:
            place = part.start + position - len(head)
            data = os.pread(self._descriptor, min(len(buffer), max(0, part.stop - place)), place)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def look(descriptor: int) -> tuple[str, int]:
    """Returns the kind of a file, and the position in bytes after any ID3v2 tags.

    Raises:
        ContainerError: the kind is unknown.
    """
    start = 0
    while num_bytes := id3_bytes(os.pread(descriptor, 10, start)):
        start += num_bytes
    try:
        return kind(os.pread(descriptor, HEAD_BYTES, start)), start
    except ContainerError:
        if start:
            return "MP3", start  # padding after the tag
        raise


def id3_bytes(head: bytes) -> int:
    """Returns the size of an ID3v2 tag in bytes from its first 10 bytes; 0 if they are no tag.

    Source: ID3 tag version 2.4.0, main structure, section 3.1.
    """
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 0x7F or 0xFF in head[3:5]:
        return 0
    num_bytes = 0
    for byte in head[6:10]:
        num_bytes = num_bytes << 7 | byte
    return 10 + num_bytes + (10 if head[5] & 0x10 else 0)


def kind(head: bytes) -> str:
    """Returns the kind of a container from its first `HEAD_BYTES` bytes.

    Returns:
        FLAC, WAV, AIFF, AU, OGG, MP3, NIST, or a key of `DEMUXERS`.

    Raises:
        ContainerError: the kind is unknown.
    """
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        return "WAV" if _wav_codec(head) in _WAV_CODECS else "compressed WAV"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[:3] == b"ID3":
        return "MP3"
    if head[:4] == b"OggS":
        return _OGG_CODECS.get(head[28:33], "OGG")
    if head[:8] == b"NIST_1A\n":
        coding = re.search(rb"\nsample_coding -s\d+ (\S+)", head)
        is_plain = coding is None or coding[1] in (b"pcm", b"ulaw", b"mu-law", b"alaw")
        return "NIST" if is_plain else "compressed NIST SPHERE"
    for place, magic, name in _MAGIC:
        if head[place : place + len(magic)] == magic:
            return name
    if head[4:8] in _BOXES and head[:1] == b"\0":
        return "MP4"
    if head[:377:188] == b"GGG":  # the first byte of every packet
        return "MPEG-TS"
    if head[:1] == b"\xff" and head[1:2] >= b"\xe0":
        return "AAC" if head[1] & 0xF6 == 0xF0 else "MP3"  # ADTS: its layer is 0
    if head.lstrip().startswith(_PLAYLISTS):
        raise ContainerError("a playlist, not a sound")
    raise ContainerError("not FLAC, WAV, AIFF, AU, OGG, MP3 or NIST SPHERE")


def _wav_codec(head: bytes) -> int:
    """Returns the codec number of a WAV file; 1 (PCM) if the first bytes do not contain it."""
    place = head.find(b"fmt ", 12) + 8
    if place < 8 or head[:4] == b"RIFX":
        return 1
    codec = int.from_bytes(head[place : place + 2], "little")
    if codec == 0xFFFE:  # WAVE_FORMAT_EXTENSIBLE: the number is in a GUID
        codec = int.from_bytes(head[place + 24 : place + 26], "little")
    return codec or 1


def check_alone(descriptor: int, kind: str) -> None:
    """Checks that a file is a single sound, for kinds of which ffmpeg reads only the first one.

    Args:
        descriptor: open file.
        kind: a key of `DEMUXERS`.

    Raises:
        ContainerError: the file is several sounds joined together.
    """
    if kind not in _BEGINNINGS:
        return
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        if len(re.findall(_BEGINNINGS[kind], data, re.DOTALL)) > 1:
            raise ContainerError(
                f"several joined {kind} files, of which ffmpeg reads only the first"
            )


def before_tags(descriptor: int, start: int, stop: int) -> int:
    """Returns the end of the data before any ID3v1, APE and Lyrics3 tags, as a position in bytes.

    Args:
        descriptor: open file.
        start: position of the data.
        stop: size of the file.

    Source: ID3v1; APEv2, tag footer; Lyrics3 v2.00.
    """
    while True:
        tail = os.pread(descriptor, min(128, stop - start), max(start, stop - 128))
        if tail[:3] == b"TAG" and len(tail) == 128:
            num_bytes = 128
        elif tail[-32:-24] == b"APETAGEX":
            has_header = tail[-9] & 0x80
            num_bytes = int.from_bytes(tail[-20:-16], "little") + (32 if has_header else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            num_bytes = int(tail[-15:-9]) + 15
        else:
            return stop
        if not 0 < num_bytes <= stop - start:
            return stop
        stop -= num_bytes


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Redirects the stderr of the process to /dev/null, to hide messages of mpg123 in libsndfile.

    Runs one thread at a time. Output of other threads to stderr is lost meanwhile, so the block
    must be short.
    """
    with _STDERR_LOCK, open(os.devnull, "wb") as null:
        saved = os.dup(2)
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def write_flac(path: Path, waveform: np.ndarray, rate_hz: int) -> None:
    """Writes `[S]` float32 as 16-bit FLAC.

    Encodes in memory first: libsndfile does not report a full disk.

    Args:
        path: file to write.
        waveform: `[S]` float32 in [-1, 1].
        rate_hz: sampling rate.

    Raises:
        OSError: the file cannot be written.
    """
    encoded = io.BytesIO()
    soundfile.write(encoded, waveform, rate_hz, format="FLAC", subtype="PCM_16")
    path.write_bytes(encoded.getvalue())
