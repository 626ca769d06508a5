"""What headers of WAV, AIFF, AU and NIST SPHERE promise: libsndfile takes half of it in silence."""

import math
import os
import re
import struct

from tools.speech.containers import ContainerError, Part, before_tags, id3_bytes

# Sizes from here on mean "to the end of the file": SoX writes 0x7FFFF000 into a pipe, ffmpeg
# 0xFFFFFFFF.
_STREAMED_BYTES = 0x7FFFF000
_MAX_CHUNKS = 1000
_CHUNK_BYTES = 1 << 20
_MOST_REST_BYTES = 1024  # behind a sound that are neither tags nor zeros: no samples, so few
_SPHERE_BYTES = 1 << 16  # of a header, at most


def is_canonical_wav(head: bytes) -> bool:
    """Tells by the first 44 bytes whether a WAV is plain PCM with no other chunk before "data"."""
    is_plain = head[:4] == b"RIFF" and head[12:22] == b"fmt \x10\0\0\0\1\0"
    num_bytes = int.from_bytes(head[40:44], "little")
    return is_plain and head[36:40] == b"data" and 0 < num_bytes < _STREAMED_BYTES


def parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Gives the WAV or AIFF sounds of a file, one behind the other.

    Args:
        descriptor: of the file.
        start: byte of the first.
        stop: the size of the file.

    Raises:
        ContainerError: samples are missing, or cannot be found.
    """
    found, begin = [], start
    while begin is not None:
        part, begin = _form(descriptor, begin, stop)
        found.append(part)
    return found


def _form(descriptor: int, start: int, stop: int) -> tuple[Part, int | None]:
    """Gives the sound that begins at a byte, and where the next one begins, if any does."""
    form = os.pread(descriptor, 12, start)
    byte_order = "<" if form[:4] == b"RIFF" else ">"
    position, padding, has_samples = start + 12, 0, False
    for _ in range(_MAX_CHUNKS):
        for begin in (position, position - padding):  # which some programs forget
            head = os.pread(descriptor, 12, begin)
            if has_samples and head[:4] == form[:4] and head[8:] == form[8:]:
                return Part(start, begin), begin
        head = os.pread(descriptor, 12, position)
        if len(head) < 8:
            break  # the end; without samples libsndfile says so
        name, num_bytes = struct.unpack(f"{byte_order}4sI", head[:8])
        behind = position + 8
        if name in (b"data", b"SSND") and not has_samples:
            has_samples = True
            if num_bytes >= _STREAMED_BYTES:
                break
            _check_held(num_bytes, stop - behind)
            if not num_bytes and stop > behind:
                if name == b"SSND" or _are_chunks(descriptor, behind, stop, byte_order=byte_order):
                    break
                # As written into a pipe that could not go back to its header.
                size = struct.pack(f"{byte_order}I", min(stop - behind, 0xFFFFFFFF))
                header = os.pread(descriptor, behind - 4 - start, start) + size
                return Part(behind, stop, header), None
        elif has_samples and not (_is_name(name) and num_bytes <= stop - behind):
            _check_rest(descriptor, position, stop)
            break
        padding = num_bytes % 2
        position = behind + num_bytes + padding
    else:
        if not has_samples:
            raise ContainerError(f"more than {_MAX_CHUNKS} chunks before the samples")
    return Part(start, stop), None


def _check_rest(descriptor: int, start: int, stop: int) -> None:
    """Looks whether what lies behind all that a header knows can be samples.

    Raises:
        ContainerError: it can: it is neither tags nor zeros, and long.
    """
    start += id3_bytes(os.pread(descriptor, 10, start))
    stop = before_tags(descriptor, start, stop)
    if stop - start <= _MOST_REST_BYTES:
        return
    for position in range(start, stop, _CHUNK_BYTES):
        data = os.pread(descriptor, min(_CHUNK_BYTES, stop - position), position)
        if data.strip(b"\0"):
            rest = f"{stop - start} more bytes behind the samples that the header knows"
            raise ContainerError(rest)


def _are_chunks(descriptor: int, position: int, stop: int, *, byte_order: str) -> bool:
    """Tells whether nothing but chunks lies from a byte to the end of a file."""
    for _ in range(_MAX_CHUNKS):
        if position >= stop:
            return True
        head = os.pread(descriptor, 8, position)
        if len(head) < 8 or not _is_name(head[:4]):
            return False
        num_bytes = struct.unpack(f"{byte_order}I", head[4:])[0]
        if num_bytes > stop - position - 8:
            return False
        position += 8 + num_bytes + num_bytes % 2
    return True


def _is_name(name: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in name)


def _check_held(num_bytes: int, held: int) -> None:
    """Refuses a sound whose header promises more bytes of samples than the file holds."""
    if num_bytes > held:
        raise ContainerError(f"{held} of {num_bytes} bytes of samples", truncated=True)


def au_parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Gives the AU sounds of a file, one behind the other.

    Raises:
        ContainerError: samples are missing, or more are there.
    """
    found, magic = [], b".snd"
    while os.pread(descriptor, 4, start) == magic or not found:
        head = os.pread(descriptor, 12, start).ljust(12, b"\0")
        begin, num_bytes = struct.unpack(">II", head[4:])
        if num_bytes >= _STREAMED_BYTES:
            return [*found, Part(start, stop)]
        if not num_bytes:  # as written into a pipe that could not go back to its header
            return [*found, Part(start + 12, stop, head[:8] + b"\xff" * 4)]
        _check_held(num_bytes, stop - start - begin)
        found.append(Part(start, start + begin + num_bytes))
        start = found[-1].stop
    _check_rest(descriptor, start, stop)
    return found


def sphere_parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Gives the NIST SPHERE sounds of a file, one behind the other.

    Raises:
        ContainerError: samples are missing, more are there, or a header is damaged.

    Source: the header as SoX 14.4.2 and libsndfile 1.2.2 have it.
    """
    found, magic = [], b"NIST_1A\n"
    while os.pread(descriptor, len(magic), start) == magic or not found:
        head = os.pread(descriptor, _SPHERE_BYTES, start).partition(b"end_head")[0]
        header = re.match(rb"NIST_1A\n *(\d+)\n", head)
        names = (b"sample_count", b"channel_count", b"sample_n_bytes")
        sizes = [re.search(rb"^%s -\w+ (\d+)$" % name, head, re.MULTILINE) for name in names]
        if header is None or None in sizes:
            raise ContainerError("no sizes in the header")
        header_bytes = int(header[1])
        num_bytes = math.prod(int(size[1]) for size in sizes)
        _check_held(num_bytes, stop - start - header_bytes)
        found.append(Part(start, start + header_bytes + num_bytes))
        start = found[-1].stop
    _check_rest(descriptor, start, stop)
    return found
