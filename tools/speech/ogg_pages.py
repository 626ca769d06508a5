"""Checks that the pages of an Ogg file are complete, and finds the sounds in the file."""

import os
import zlib

from tools.speech.containers import ContainerError, Part

_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def parts(descriptor: int, start: int, stop: int, check: bool = False) -> list[Part]:
    """Checks all pages of a file. libsndfile skips damaged or missing pages without an error.

    Args:
        descriptor: open file.
        start: position of the first page in bytes.
        stop: size of the file.
        check: whether to verify the checksums of the pages too.

    Returns:
        The sounds of the file (chained streams), in order.

    Raises:
        ContainerError: a page is damaged or missing; `before` has what is in front of it.

    Source: RFC 3533, sections 4 and 6.
    """
    position, begins, found = start, start, []
    following: dict[bytes, int] = {}  # number of the next page, by stream
    running: set[bytes] = set()  # streams whose last page has not been read
    has_sound = False  # whether the part has a page other than the first pages of its streams
    try:
        while position < stop:
            head = os.pread(descriptor, 27 + 255, position)
            if len(head) < 27 or head[:4] != b"OggS":
                if following and not running and not _has_pages(descriptor, position, stop):
                    break  # a tag after the end
                raise ContainerError(f"no Ogg page at byte {position}", truncated=bool(following))
            num_bytes = 27 + head[26] + sum(head[27 : 27 + head[26]])
            if num_bytes > stop - position:
                raise ContainerError(f"an incomplete Ogg page at byte {position}", truncated=True)
            if check:
                _check_page(os.pread(descriptor, num_bytes, position), position)
            stream, number = head[14:18], int.from_bytes(head[18:22], "little")
            if head[5] & 2:  # the first page of a stream
                if has_sound:
                    if running:
                        break
                    found.append(Part(begins, position))
                    begins, has_sound = position, False
                running.add(stream)
                following[stream] = number
            else:
                has_sound = True
            if number != following.get(stream, number):
                raise ContainerError(f"an Ogg page is missing at byte {position}", truncated=True)
            following[stream] = (number + 1) % 2**32
            if head[5] & 4:
                running.discard(stream)
            position += num_bytes
        if running or not following:
            raise ContainerError("the last Ogg page does not end the stream", truncated=True)
    except ContainerError as error:
        error.before = (*found, Part(begins, position)) if has_sound else found
        raise
    return [*found, Part(begins, position)]


def _has_pages(descriptor: int, start: int, stop: int) -> bool:
    """Returns whether pages may follow: the rest contains a page, or is too long for a tag."""
    return stop - start > 1 << 20 or b"OggS" in os.pread(descriptor, stop - start, start)


def _check_page(page: bytes, position: int) -> None:
    checksum = int.from_bytes(page[22:26], "little")
    if _checksum(page[:22] + bytes(4) + page[26:]) != checksum:
        raise ContainerError(f"a damaged Ogg page at byte {position}")


def _checksum(data: bytes) -> int:
    """Computes Ogg's CRC-32 with zlib, which uses the reverse bit order and inverts the result."""
    checksum = zlib.crc32(data.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{checksum:032b}"[::-1], 2)
