"""Length of FLAC files, read from the last frame.

The header may lack the length, and a file may be several FLAC streams joined together.
"""

import os
import struct
from typing import NamedTuple

from tools.speech.containers import ContainerError, Part

_MARKER = b"fLaC\0\0\0\x22"  # the marker and the header of the STREAMINFO block
_STREAMINFO_END = 42  # end of STREAMINFO, in bytes from the marker
# In a file with a single FLAC stream, a position in the file corresponds to about the same share of
# the samples. These are the positions where frame numbers are checked, and the largest deviation.
# In a file of several joined streams, at least one frame number deviates more, unless the other
# streams are tiny.
_LOOK_SHARES = (0.06, 0.15, 0.38, 0.5, 0.74, 0.85, 0.94)
_MOST_DEVIATION = 0.3
_SCANNED_BYTES = 1 << 16  # smaller files are searched for further streams instead
_CHUNK_BYTES = 1 << 20
_FRAME_HEAD_BYTES = 16  # longest header of a frame
_SLACK_BYTES = 1024  # for a tag after the last frame
_CRC8 = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value << 1 ^ (0x07 if _value & 0x80 else 0)) & 0xFF
    _CRC8[_byte] = _value


class _Frame(NamedTuple):
    """Header of a frame.

    `number` is the number of the frame, or of its first sample if `has_sample_number` is True.
    """

    number: int
    block_samples: int
    has_sample_number: bool
    rate: int
    num_channels: int
    sample_size: int


class _Stream(NamedTuple):
    """A FLAC stream in a file, from its marker to its end."""

    start: int
    stop: int
    first: int  # position of the first frame in bytes
    num_samples: int  # according to the header; 0 if unknown
    longest_bytes: int  # size of the longest frame
    sync: bytes  # first bytes of every frame
    frame: _Frame | None  # header of the first frame


def block_samples(descriptor: int) -> int:
    """Returns the block size of a FLAC file in samples; 0 if blocks differ or cannot be found.

    Source: RFC 9639, section 8.
    """
    first = _first_frame(descriptor, 0)
    if first is None:
        return 0
    smallest, largest = struct.unpack(">HH", os.pread(descriptor, 4, 8))
    is_fixed = smallest == largest and os.pread(descriptor, 2, first) == b"\xff\xf8"
    return largest if is_fixed else 0


def parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Returns the FLAC streams of a file, in order, each with its correct number of samples.

    If the last frame and some frames before it have the numbers expected from the header, the
    header is used. Otherwise the file is searched for further streams.

    Args:
        descriptor: open file.
        start: position of the marker in bytes, after ID3 tags.
        stop: size of the file.

    Raises:
        ContainerError: neither a header nor the frames give the number of samples.

    Source: RFC 9639, sections 8 and 9.
    """
    stream = _stream(descriptor, start, stop)
    if stream is None:
        return [Part(start, stop)]  # libsndfile reports the error
    if _is_alone(descriptor, stream):
        return [Part(start, stop)]
    begins, found = [start, *_markers(descriptor, stream.first, stop)], []
    for begin, end in zip(begins, [*begins[1:], stop], strict=True):
        stream = _stream(descriptor, begin, end)
        if stream is None:
            raise ContainerError(f"no frames of the FLAC at byte {begin}", truncated=True)
        counted = _last_sample(descriptor, stream)
        if not stream.num_samples and not counted:
            raise ContainerError("neither the header nor the frames give a length")
        if counted > stream.num_samples:
            found.append(_with_length(descriptor, stream, counted))
        else:
            found.append(Part(begin, end))
    return found


def _stream(descriptor: int, start: int, stop: int) -> _Stream | None:
    """Reads the header of a FLAC stream; returns None if it is not valid."""
    head = os.pread(descriptor, _STREAMINFO_END, start)
    first = _first_frame(descriptor, start)
    if len(head) < _STREAMINFO_END or first is None or not head.startswith(_MARKER):
        return None
    fields = int.from_bytes(head[18:26], "big")
    largest, longest = int.from_bytes(head[10:12], "big"), int.from_bytes(head[15:18], "big")
    num_channels, sample_bits = (fields >> 41 & 7) + 1, (fields >> 36 & 31) + 1
    longest = longest or largest * num_channels * (sample_bits + 8) // 8
    frame = os.pread(descriptor, _FRAME_HEAD_BYTES, first)
    num_samples = fields & (1 << 36) - 1
    return _Stream(start, stop, first, num_samples, longest, frame[:2], _frame(frame))


def _first_frame(descriptor: int, start: int) -> int | None:
    """Returns the position after the metadata; None if the file ends before."""
    position, is_last = start + 4, False
    while not is_last:
        head = os.pread(descriptor, 4, position)
        if len(head) < 4:
            return None
        is_last = head[0] >= 0x80
        position += 4 + int.from_bytes(head[1:4], "big")
    return position


def _is_alone(descriptor: int, stream: _Stream) -> bool:
    """Returns whether the frames have the numbers expected in a file with this stream only."""
    num_bytes, total = stream.stop - stream.first, stream.num_samples
    if num_bytes < _SCANNED_BYTES or not total or _last_sample(descriptor, stream) != total:
        return False
    for share in _LOOK_SHARES:
        position = stream.first + int(share * num_bytes)
        data = os.pread(descriptor, stream.longest_bytes + _SLACK_BYTES, position)
        sample = _sample(stream, data, backward=False)
        if sample is None or abs(sample[0] / total - share) > _MOST_DEVIATION:
            return False
    return True


def _last_sample(descriptor: int, stream: _Stream) -> int:
    """Returns the number of samples up to the end of the last frame; 0 if no frame is found."""
    begin = max(stream.first, stream.stop - stream.longest_bytes - _SLACK_BYTES)
    data = os.pread(descriptor, stream.stop - begin, begin)
    sample = _sample(stream, data, backward=True)
    return sum(sample) if sample else 0


def _sample(stream: _Stream, data: bytes, backward: bool) -> tuple[int, int] | None:
    """Finds the first or last frame in a piece of a FLAC stream.

    Returns:
        Number of the frame's first sample, and its number of samples; None if there is no frame.
    """
    first, sync = stream.frame, stream.sync
    if first is None:
        return None
    place = data.rfind(sync) if backward else data.find(sync)
    while place >= 0:
        frame = _frame(data[place : place + _FRAME_HEAD_BYTES])
        if frame is not None and frame[2:] == first[2:]:
            step = 1 if frame.has_sample_number else first.block_samples
            return frame.number * step, frame.block_samples
        place = data.rfind(sync, 0, place + 1) if backward else data.find(sync, place + 1)
    return None


def _frame(head: bytes) -> _Frame | None:
    """Parses the header of a frame from its first bytes; returns None if it is not valid."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    block, rate, channels, sample_size = head[2] >> 4, head[2] & 15, head[3] >> 4, head[3] >> 1 & 7
    if block == 0 or rate == 15 or channels > 10 or sample_size == 3:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # leading ones: the length, as in UTF-8
    if ones in (1, 8):
        return None
    number, behind = head[4] & (0x7F >> ones), 4 + max(1, ones)
    for byte in head[5:behind]:
        number = number << 6 | byte & 0x3F
    sizes = {6: 1, 7: 2}.get(block, 0)
    extra = int.from_bytes(head[behind : behind + sizes], "big") + 1
    behind += sizes + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    crc = 0
    for byte in head[:behind]:
        crc = _CRC8[crc ^ byte]
    if behind >= len(head) or head[behind] != crc:
        return None
    if block == 1:
        block_samples = 192
    elif sizes:
        block_samples = extra
    else:
        block_samples = 576 << block - 2 if block < 6 else 256 << block - 8
    num_channels = 2 if channels > 7 else channels + 1
    return _Frame(number, block_samples, bool(head[1] & 1), rate, num_channels, sample_size)


def _markers(descriptor: int, start: int, stop: int) -> list[int]:
    """Returns the positions of the FLAC markers in a range of bytes."""
    found, position = [], start
    while position < stop:
        data = os.pread(descriptor, min(_CHUNK_BYTES, stop - position), position)
        place = data.find(_MARKER)
        while place >= 0:
            found.append(position + place)
            place = data.find(_MARKER, place + 1)
        position += max(1, len(data) - len(_MARKER) + 1)
    return found


def _with_length(descriptor: int, stream: _Stream, num_samples: int) -> Part:
    """Returns the stream as a part with the number of samples written into its header."""
    head = bytearray(os.pread(descriptor, _STREAMINFO_END, stream.start))
    fields = int.from_bytes(head[18:26], "big") >> 36 << 36 | num_samples
    head[18:26] = fields.to_bytes(8, "big")
    return Part(stream.start + _STREAMINFO_END, stream.stop, bytes(head))
