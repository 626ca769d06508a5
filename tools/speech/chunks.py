"""Checks the headers of WAV, AIFF, AU and NIST SPHERE files against the size of the file.

libsndfile accepts files with missing or additional samples without an error.
"""

import math
import os
import re
import struct

from tools.speech.containers import ContainerError, Part, before_tags, id3_bytes

# Sizes of at least this mean "to the end of the file". Writing to a pipe, SoX puts 0x7FFFF000 and
# ffmpeg puts 0xFFFFFFFF.
_STREAMED_BYTES = 0x7FFFF000
_MAX_CHUNKS = 1000
_CHUNK_BYTES = 1 << 20
_MOST_REST_BYTES = 1024  # so many other bytes after a sound are accepted: too few to be samples
_SPHERE_BYTES = 1 << 16  # largest header


def is_canonical_wav(head: bytes) -> bool:
    """Returns, from the first 44 bytes, whether a WAV is plain PCM with "data" as second chunk."""
    is_plain = head[:4] == b"RIFF" and head[12:22] == b"fmt \x10\0\0\0\1\0"
    num_bytes = int.from_bytes(head[40:44], "little")
    return is_plain and head[36:40] == b"data" and 0 < num_bytes < _STREAMED_BYTES


def parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Returns the WAV or AIFF sounds of a file, in order; usually one.

    Args:
        descriptor: open file.
        start: position of the first sound in bytes.
        stop: size of the file.

    Raises:
        ContainerError: samples are missing or cannot be found. If the file breaks off, `before` has
            what is there.
    """
    found, begin = [], start
    while begin is not None:
        try:
            part, begin = _form(descriptor, begin, stop)
        except ContainerError as error:
            if error.truncated:
                error.before = (*found, Part(begin, stop))
            raise
        found.append(part)
    return found


def _form(descriptor: int, start: int, stop: int) -> tuple[Part, int | None]:
    """Returns the sound at a position, and the position of the next sound or None."""
    form = os.pread(descriptor, 12, start)
    byte_order = "<" if form[:4] == b"RIFF" else ">"
    position, padding, has_samples = start + 12, 0, False
    for _ in range(_MAX_CHUNKS):
        for begin in (position, position - padding):  # some programs omit the padding byte
            head = os.pread(descriptor, 12, begin)
            if has_samples and head[:4] == form[:4] and head[8:] == form[8:]:
                return Part(start, begin), begin
        head = os.pread(descriptor, 12, position)
        if len(head) < 8:
            break  # end of the file; libsndfile reports a file without samples
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
                # Written to a pipe: the program could not go back to fill in the size.
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
    """Checks that the bytes after the sound in the header are not samples.

    Raises:
        ContainerError: they may be samples: they are many, and neither tags nor zeros.
    """
    start += id3_bytes(os.pread(descriptor, 10, start))
    stop = before_tags(descriptor, start, stop)
    if stop - start <= _MOST_REST_BYTES:
        return
    for position in range(start, stop, _CHUNK_BYTES):
        data = os.pread(descriptor, min(_CHUNK_BYTES, stop - position), position)
        if data.strip(b"\0"):
            rest = f"{stop - start} more bytes after the samples that the header declares"
            raise ContainerError(rest)


def _are_chunks(descriptor: int, position: int, stop: int, *, byte_order: str) -> bool:
    """Returns whether the file consists of valid chunks from a position to its end."""
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
    """Raises ContainerError if the header declares more bytes of samples than the file has."""
    if num_bytes > held:
        raise ContainerError(f"{held} of {num_bytes} bytes of samples", truncated=True)


def au_parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Returns the AU sounds of a file, in order; usually one. For the arguments see `parts`.

    Raises:
        ContainerError: samples are missing, or more follow than the header declares.
    """
    found, magic = [], b".snd"
    while os.pread(descriptor, 4, start) == magic or not found:
        head = os.pread(descriptor, 12, start).ljust(12, b"\0")
        begin, num_bytes = struct.unpack(">II", head[4:])
        if num_bytes >= _STREAMED_BYTES:
            return [*found, Part(start, stop)]
        if not num_bytes:  # written to a pipe, without going back to fill in the size
            return [*found, Part(start + 12, stop, head[:8] + b"\xff" * 4)]
        _check_held(num_bytes, stop - start - begin)
        found.append(Part(start, start + begin + num_bytes))
        start = found[-1].stop
    _check_rest(descriptor, start, stop)
    return found


def sphere_parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Returns the NIST SPHERE sounds of a file, in order; usually one.

    For the arguments see `parts`.

    Raises:
        ContainerError: samples are missing, more follow than the header declares, or a header is
            damaged.

    Source: the header as in SoX 14.4.2 and libsndfile 1.2.2.
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
