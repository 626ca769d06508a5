"""What headers of WAV, AIFF, AU and NIST SPHERE promise: libsndfile takes half of it in silence."""

import math
import os
import re
import struct

from tools.speech.containers import ContainerError, Part

# Sizes from here on mean "to the end of the file": SoX writes 0x7FFFF000 into a pipe, ffmpeg
# 0xFFFFFFFF.
_STREAMED_BYTES = 0x7FFFF000
_MAX_CHUNKS = 1000
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
    position, has_samples = start + 12, False
    for _ in range(_MAX_CHUNKS):
        head = os.pread(descriptor, 12, position)
        if has_samples and head[:4] == form[:4] and head[8:] == form[8:]:
            return Part(start, position), position
        if len(head) < 8:
            break  # the end; without samples libsndfile says so
        name, num_bytes = struct.unpack(f"{byte_order}4sI", head[:8])
        behind = position + 8
        if name in (b"data", b"SSND") and not has_samples:
            has_samples = True
            if num_bytes >= _STREAMED_BYTES:
                break
            if num_bytes > stop - behind:
                missing = f"{stop - behind} of {num_bytes} bytes of samples"
                raise ContainerError(missing, truncated=True)
            if name == b"data" and not num_bytes and stop > behind:
                if _are_chunks(descriptor, behind, stop, byte_order=byte_order):
                    break
                # As written into a pipe that could not go back to its header.
                size = struct.pack(f"{byte_order}I", min(stop - behind, 0xFFFFFFFF))
                header = os.pread(descriptor, behind - 4 - start, start) + size
                return Part(behind, stop, header), None
        elif has_samples and not _is_name(name):
            break  # something else behind the samples
        position = behind + num_bytes + num_bytes % 2
    else:
        if not has_samples:
            raise ContainerError(f"more than {_MAX_CHUNKS} chunks before the samples")
    return Part(start, stop), None


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


def au_parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Gives the sound of an AU file.

    Raises:
        ContainerError: samples are missing.
    """
    begin, num_bytes = struct.unpack(">II", os.pread(descriptor, 12, start).ljust(12, b"\0")[4:])
    if num_bytes < _STREAMED_BYTES and num_bytes > stop - start - begin:
        missing = f"{stop - start - begin} of {num_bytes} bytes of samples"
        raise ContainerError(missing, truncated=True)
    return [Part(start, stop)]


def sphere_parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Gives the sound of a NIST SPHERE file.

    Raises:
        ContainerError: samples are missing, or the header is damaged.

    Source: the header as SoX 14.4.2 and libsndfile 1.2.2 have it.
    """
    head = os.pread(descriptor, _SPHERE_BYTES, start).partition(b"end_head")[0]
    header = re.match(rb"NIST_1A\n *(\d+)\n", head)
    names = (b"sample_count", b"channel_count", b"sample_n_bytes")
    sizes = [re.search(rb"^%s -\w+ (\d+)$" % name, head, re.MULTILINE) for name in names]
    if header is None or None in sizes:
        raise ContainerError("no sizes in the header")
    header_bytes = int(header[1])
    num_bytes = math.prod(int(size[1]) for size in sizes)
    if num_bytes > stop - start - header_bytes:
        missing = f"{stop - start - header_bytes} of {num_bytes} bytes of samples"
        raise ContainerError(missing, truncated=True)
    return [Part(start, start + header_bytes + num_bytes)]
