"""What libsndfile leaves unsaid about sound files: kind by content, wholeness, full disks."""

import contextlib
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

# Sizes from here on mean "to the end of the file": SoX writes 0x7FFFF000 into a pipe, ffmpeg
# 0xFFFFFFFF.
_STREAMED_BYTES = 0x7FFFF000
_MAX_CHUNKS = 1000
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_STDERR_LOCK = threading.Lock()


class ContainerError(Exception):
    """A container that cannot be trusted; `truncated` when it is only incomplete."""

    def __init__(self, message: str, *, truncated: bool = False):
        super().__init__(message)
        self.truncated = truncated


def kind(head: bytes) -> str:
    """Names a container by its first 12 bytes: FLAC, WAV, AIFF, OGG, or MP3 (any ID3 tag).

    Raises:
        ContainerError: it is none of them.
    """
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[:4] == b"fLaC":
        return "FLAC"
    if head[:4] == b"OggS":
        return "OGG"
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return "MP3"
    raise ContainerError("not FLAC, WAV, AIFF, OGG or MP3")


def flac_block_samples(descriptor: int) -> int:
    """Reads the size of a FLAC's blocks; 0 when they differ or do not follow on the metadata.

    Source: RFC 9639, section 8.
    """
    position, is_last = 4, False
    while not is_last:
        head = os.pread(descriptor, 8, position)
        if len(head) < 8:
            return 0
        if position == 4:  # STREAMINFO: the smallest block, the largest block
            smallest, largest = struct.unpack(">HH", head[4:])
        is_last = head[0] >= 0x80
        position += 4 + int.from_bytes(head[1:4], "big")
    is_fixed = smallest == largest and os.pread(descriptor, 2, position) == b"\xff\xf8"
    return largest if is_fixed else 0


def is_canonical_wav(head: bytes) -> bool:
    """Tells by the first 44 bytes whether a WAV is plain PCM with no other chunk before "data"."""
    is_plain = head[:4] == b"RIFF" and head[12:22] == b"fmt \x10\0\0\0\1\0"
    return is_plain and head[36:40] == b"data" and _is_size(int.from_bytes(head[40:44], "little"))


def check_chunks(descriptor: int) -> None:
    """Compares what a WAV or AIFF promises with the file: libsndfile takes half in silence.

    Raises:
        ContainerError: samples are missing, or cannot be found.
    """
    size = os.fstat(descriptor).st_size
    byte_order = "<" if os.pread(descriptor, 4, 0) == b"RIFF" else ">"
    position = 12
    for _ in range(_MAX_CHUNKS):
        head = os.pread(descriptor, 8, position)
        if len(head) < 8:
            return  # no samples at all: libsndfile says so
        name, num_bytes = struct.unpack(f"{byte_order}4sI", head)
        position += 8
        if name in (b"data", b"SSND"):
            if _is_size(num_bytes) and num_bytes > size - position:
                missing = f"{size - position} of {num_bytes} bytes of samples"
                raise ContainerError(missing, truncated=True)
            return
        position += num_bytes + num_bytes % 2
    raise ContainerError(f"more than {_MAX_CHUNKS} chunks before the samples")


def check_ogg_pages(descriptor: int) -> None:
    """Checks every Ogg page: libsndfile skips the damaged and does not miss the lost.

    Raises:
        ContainerError: a page is damaged or missing.

    Source: RFC 3533, section 6.
    """
    size = os.fstat(descriptor).st_size
    position, ends_stream = 0, False
    following: dict[bytes, int] = {}  # the number of the next page, by stream
    while position < size:
        head = os.pread(descriptor, 27 + 255, position)
        if len(head) < 27 or head[:4] != b"OggS":
            raise ContainerError(f"no Ogg page at byte {position}", truncated=True)
        num_segments = head[26]
        num_bytes = 27 + num_segments + sum(head[27 : 27 + num_segments])
        page = os.pread(descriptor, num_bytes, position)
        checksum = int.from_bytes(page[22:26], "little")
        if len(page) < num_bytes:
            raise ContainerError(f"half an Ogg page at byte {position}", truncated=True)
        if _ogg_checksum(page[:22] + bytes(4) + page[26:]) != checksum:
            raise ContainerError(f"a damaged Ogg page at byte {position}")
        stream, number = page[14:18], int.from_bytes(page[18:22], "little")
        if number != following.get(stream, number):
            raise ContainerError(f"an Ogg page is missing at byte {position}", truncated=True)
        following[stream] = (number + 1) % 2**32
        position += num_bytes
        ends_stream = bool(head[5] & 4)
    if not ends_stream:
        raise ContainerError("the last Ogg page does not end the stream", truncated=True)


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


def _is_size(num_bytes: int) -> bool:
    return num_bytes < _STREAMED_BYTES


def _ogg_checksum(data: bytes) -> int:
    """Takes Ogg's CRC-32 as zlib's, with the bits of every byte reversed and no inversions."""
    checksum = zlib.crc32(data.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{checksum:032b}"[::-1], 2)


def write_flac(path: Path, waveform: np.ndarray, rate_hz: int) -> None:
    """Writes [S] float32 as 16-bit FLAC; raises OSError, also where libsndfile would be silent."""
    encoded = io.BytesIO()
    soundfile.write(encoded, waveform, rate_hz, format="FLAC", subtype="PCM_16")
    path.write_bytes(encoded.getvalue())
