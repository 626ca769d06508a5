"""Length of MP3 files: counts the frames if no header gives the length."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from tools.speech.containers import ContainerError, Part, before_tags, id3_bytes

_CHUNK_BYTES = 1 << 20
_FRAME_BYTES = 2881  # longest frame: MPEG 2.5, layer II, 160 kbit/s at 8 kHz
_HEAD_BYTES = 200  # start of a frame, with all fields of a Xing header that are used
_SEARCH_BYTES = 1 << 16  # largest padding before the first frame
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class Header(NamedTuple):
    """Header of a frame.

    Attributes:
        kind: version, layer, rate in Hz, and whether there is one channel; the same for all frames
            of a sound.
        num_bytes: size of the frame.
        side_bytes: size of the side information of layer III.
    """

    kind: tuple[int, int, int, bool]
    num_bytes: int
    side_bytes: int


class _Run(NamedTuple):
    """A sequence of frames without gaps.

    Attributes:
        start: position of the first frame, which may be a Xing frame.
        stop: position after the last frame.
        first: position of the first frame with sound.
        num_frames: number of frames with sound.
        declared: number of frames according to the Xing frame; None without a Xing frame.
    """

    start: int
    stop: int
    first: int
    num_frames: int
    declared: int | None


def parts(descriptor: int, start: int, stop: int) -> list[Part]:
    """Returns the sounds of an MP3 file, in order, each with a header that gives its length.

    Uses the Xing header if it agrees with the size of the file, and counts all frames otherwise.

    Args:
        descriptor: open file.
        start: position in bytes after ID3 tags.
        stop: size of the file.

    Raises:
        ContainerError: there are no frames, frames are missing, or other data is between frames;
            `before` has what is in front.

    Source: ISO/IEC 11172-3, section 2.4.1; the Xing header as in LAME 3.100 and mpg123 1.32.
    """
    end = before_tags(descriptor, start, stop)
    start = _frames_after(descriptor, start, end)
    if start is None:
        raise ContainerError("no sequence of MPEG frames")
    head = os.pread(descriptor, _HEAD_BYTES, start)
    declared, num_bytes = _xing(head, parse(head))
    if declared and num_bytes == end - start:
        return [Part(0, stop)]
    found: list[Part] = []
    try:
        for run in _runs(descriptor, start, end):
            if run.num_frames:
                found.append(_part(descriptor, run))
    except ContainerError as error:
        error.before = found
        raise
    return found


def parse(head: bytes) -> Header | None:
    """Parses the header of a frame; returns None if it is not valid or of free format."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    rate_hz, is_mono, padding = _RATES_HZ[version][rate], head[3] >= 0xC0, head[2] >> 1 & 1
    kbits = _KBITS[1 if version == 3 else 2, layer][bits - 1]
    if layer == 1:
        num_bytes = (12000 * kbits // rate_hz + padding) * 4
    else:
        halves = 72 if layer == 3 and version != 3 else 144
        num_bytes = halves * 1000 * kbits // rate_hz + padding
    side_bytes = (17, 9) if version != 3 else (32, 17)
    return Header((version, layer, rate_hz, is_mono), num_bytes, side_bytes[is_mono])


def _xing(frame: bytes, header: Header | None) -> tuple[int | None, int | None]:
    """Returns the numbers of frames and bytes in a Xing frame; (None, None) for other frames."""
    if header is None or header.kind[1] != 3:
        return None, None
    place = 4 + header.side_bytes
    if frame[place : place + 4] not in (b"Xing", b"Info"):
        return None, None
    flags, fields = frame[place + 7], frame[place + 8 :]
    declared = int.from_bytes(fields[:4], "big") if flags & 1 else 0
    fields = fields[4:] if flags & 1 else fields
    return declared, int.from_bytes(fields[:4], "big") if flags & 2 else None


def _is_vbri(frame: bytes) -> bool:
    """Returns whether a frame is Fraunhofer's VBRI header, which libsndfile decodes as silence."""
    return frame[36:40] == b"VBRI"


def _runs(descriptor: int, start: int, stop: int) -> Iterator[_Run]:
    """Yields the runs of frames in a file. A tag, a Xing frame or another kind ends a run.

    Raises:
        ContainerError: frames are missing; the run in front of them has been yielded.
    """
    window = _Window(descriptor, stop)
    position = start
    while position < stop:
        head = window.at(position)
        header = parse(head)
        if header is None:
            position = _behind_other_data(window, position)
            continue
        declared = _xing(head, header)[0]
        first = position
        if declared is not None or _is_vbri(head):
            first += header.num_bytes
        end, count = first, 0
        while count != declared or not declared:
            head = window.at(end)
            following = parse(head)
            if following is None or following.kind != header.kind:
                break
            if _xing(head, following)[0] is not None or _is_vbri(head):
                break
            if end + following.num_bytes > stop:
                missing = f"{stop - end} of {following.num_bytes} bytes of the last frame"
                yield _Run(position, end, first, count, None)
                raise ContainerError(missing, truncated=True)
            end, count = end + following.num_bytes, count + 1
        if declared and count < declared - 1:
            yield _Run(position, end, first, count, None)
            raise ContainerError(f"{count} of {declared} frames", truncated=True)
        yield _Run(position, end, first, count, declared or None)
        position = end


def _part(descriptor: int, run: _Run) -> Part:
    """Returns a run as a part, with a header that gives the number of frames."""
    if run.declared == run.num_frames:
        return Part(run.start, run.stop)
    head = os.pread(descriptor, 4, run.first)
    header = parse(head)
    if (layer := header.kind[1]) != 3:  # only layer III has Xing headers
        num_samples = run.num_frames * (384 if layer == 1 else 1152)
        return Part(run.first, run.stop, num_samples=num_samples)
    # Make a frame of the same kind, without sound, at a bit rate that leaves room for the fields.
    made = bytes((0xFF, head[1] | 1, 0x90 | head[2] & 0x0C, head[3] & 0xC0))
    room = parse(made).num_bytes
    fields = b"Info" + (1).to_bytes(4, "big") + run.num_frames.to_bytes(4, "big")
    made = (made + bytes(header.side_bytes) + fields).ljust(room, b"\0")
    return Part(run.first, run.stop, made)


class _Window:
    """Reads a file sequentially in large pieces."""

    def __init__(self, descriptor: int, stop: int):
        self.descriptor, self.stop = descriptor, stop
        self._start, self._data = 0, b""

    def at(self, position: int, num_bytes: int = _HEAD_BYTES) -> bytes:
        """Returns bytes from a position on; fewer at the end of the file."""
        begin = position - self._start
        if not 0 <= begin <= len(self._data) - num_bytes:
            wanted = min(_CHUNK_BYTES, max(0, self.stop - position))
            self._start, self._data = position, os.pread(self.descriptor, wanted, position)
            begin = 0
        return self._data[begin : begin + num_bytes]


def _frames_after(descriptor: int, start: int, stop: int) -> int | None:
    """Finds four consecutive frames, or fewer if they reach the end of the file.

    Returns:
        The position of the first one; None if there are none within `_SEARCH_BYTES`.
    """
    data = os.pread(descriptor, min(_SEARCH_BYTES + 4 * _FRAME_BYTES, stop - start), start)
    place = data.find(b"\xff")
    while 0 <= place < _SEARCH_BYTES:
        header = parse(data[place : place + 4])
        if header is not None:
            behind, count = place, 0
            while behind < len(data) and count < 4:
                following = parse(data[behind : behind + 4])
                if following is None or following.kind != header.kind:
                    break
                behind, count = behind + following.num_bytes, count + 1
            if count == 4 or behind == stop - start:
                return start + place
        place = data.find(b"\xff", place + 1)
    return None


def _behind_other_data(window: _Window, position: int) -> int:
    """Returns the position after a tag or zeros; the end of the file if no frames follow.

    Raises:
        ContainerError: other data is between frames.
    """
    head = window.at(position)
    if num_bytes := id3_bytes(head):
        return position + num_bytes
    if head[:3] == b"TAG":
        return position + 128
    if head[:8] == b"APETAGEX":
        return position + 32 + int.from_bytes(head[12:16], "little")
    if zeros := len(head) - len(head.lstrip(b"\0")):
        return position + zeros
    for begin in range(position, window.stop, _SEARCH_BYTES):
        if _frames_after(window.descriptor, begin, window.stop) is not None:
            raise ContainerError(f"other data between MPEG frames, at byte {position}")
    return window.stop
