"""What libsndfile leaves unsaid about sound files: their kind by content, parts, full disks."""

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

HEAD_BYTES = 12  # enough to name a kind
_STDERR_LOCK = threading.Lock()


class ContainerError(Exception):
    """A container that cannot be trusted; `truncated` when it is only incomplete."""

    def __init__(self, message: str, *, truncated: bool = False):
        super().__init__(message)
        self.truncated = truncated


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a file that is a whole sound for libsndfile.

    Attributes:
        start: its first byte.
        stop: the byte behind its last.
        head: what is read in place of the bytes before `start`: a header put right.
        num_samples: of each channel, where libsndfile would only guess; None: libsndfile knows.
    """

    start: int
    stop: int
    head: bytes = b""
    num_samples: int | None = None


class PartFile(io.RawIOBase):
    """A part of an open file, for libsndfile."""

    def __init__(self, descriptor: int, part: Part):
        super().__init__()
        self._descriptor, self._part, self._position = descriptor, part, 0

    def readable(self) -> bool:
        """Tells that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tells that it can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a byte."""
        size = len(self._part.head) + self._part.stop - self._part.start
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:
        """Reads bytes from where it is."""
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
    """Gives the kind of a file and the byte it begins at, behind ID3v2 tags.

    Raises:
        ContainerError: it is of no known kind.
    """
    start = 0
    while num_bytes := id3_bytes(os.pread(descriptor, 10, start)):
        start += num_bytes
    try:
        return kind(os.pread(descriptor, HEAD_BYTES, start)), start
    except ContainerError:
        if start:
            return "MP3", start  # padding behind the tag
        raise


def id3_bytes(head: bytes) -> int:
    """Gives the size of the ID3v2 tag that begins with 10 bytes; 0: there is none.

    Source: ID3 tag version 2.4.0, main structure, section 3.1.
    """
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 0x7F or 0xFF in head[3:5]:
        return 0
    num_bytes = 0
    for byte in head[6:10]:
        num_bytes = num_bytes << 7 | byte
    return 10 + num_bytes + (10 if head[5] & 0x10 else 0)


def kind(head: bytes) -> str:
    """Names a container by its first `HEAD_BYTES`.

    Returns:
        FLAC, WAV, AIFF, OGG or MP3.

    Raises:
        ContainerError: it is none of them.
    """
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[:3] == b"ID3":
        return "MP3"
    if head[:4] == b"OggS":
        return "OGG"
    if head[:4] == b"fLaC":
        return "FLAC"
    if head[:1] == b"\xff" and head[1:2] >= b"\xe0":
        return "MP3"
    raise ContainerError("not FLAC, WAV, AIFF, OGG or MP3")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Turns the stderr of the process off: mpg123, inside libsndfile, prints its own messages.

    One thread at a time; what another one writes meanwhile is lost: keep it short.
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
    """Writes [S] float32 as 16-bit FLAC; raises OSError, also where libsndfile would be silent."""
    encoded = io.BytesIO()
    soundfile.write(encoded, waveform, rate_hz, format="FLAC", subtype="PCM_16")
    path.write_bytes(encoded.getvalue())
