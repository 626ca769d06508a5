"""Sound files that are odd but valid, made of plain ones by hand."""

import io
import itertools
import re
import struct

import numpy as np
import soundfile

# ISO/IEC 11172-3 and 13818-3, layer III.
MP3_DECODER_DELAY = 529  # samples that mpg123 leaves out at the start
MP3_ENCODER_DELAY = 576  # of LAME; a Xing frame tells to leave it out
_MP3_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def voice(num_samples: int, num_channels: int = 1, seed: int = 7) -> np.ndarray:
    """Makes something like speech, another on each channel: `[S, channels]` below 0.7."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_samples)[:, None] * (0.03 + 0.01 * np.arange(num_channels))
    loudness = 0.3 + 0.2 * np.sin(np.arange(num_samples)[:, None] / 3000)
    return loudness * np.sin(time) + 0.05 * rng.standard_normal((num_samples, num_channels))


def encode(samples: np.ndarray, rate_hz: int, container: str, encoding: str, **options) -> bytes:
    """Encodes `[S, channels]`."""
    file = io.BytesIO()
    options |= {"format": container, "subtype": encoding}
    soundfile.write(file, samples, rate_hz, **options)
    return file.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Decodes what libsndfile decodes rightly: the mean of the channels, `[S]` float32."""
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return samples.mean(axis=1)


def id3v2(content: bytes) -> bytes:
    """A tag before a sound."""
    size = len(content)
    sizes = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\4\0\0" + sizes + content


def id3v1() -> bytes:
    """A tag behind a sound."""
    return b"TAG" + b"title".ljust(125, b"\0")


def ape(content: bytes) -> bytes:
    """An APEv2 tag with header and footer, behind a sound."""
    item = struct.pack("<II", len(content), 0) + b"Comment\0" + content
    fields = struct.pack("<II", len(item) + 32, 1)
    ends = [
        b"APETAGEX" + struct.pack("<I", 2000) + fields + struct.pack("<I", flags) + bytes(8)
        for flags in (0xA0000000, 0x80000000)
    ]
    return ends[0] + item + ends[1]


# ---------------------------------------------------------------------------------------------
# MP3


def mp3_frames(data: bytes) -> list[bytes]:
    """Splits the frames of layer III."""
    frames, position = [], 0
    while position < len(data):
        sync, version, bits = data[position], data[position + 1], data[position + 2]
        assert sync == 0xFF and version & 0xE6 == 0xE2
        is_1 = version & 0x18 == 0x18
        rate_hz = (44100, 48000, 32000)[bits >> 2 & 3] >> (
            0 if is_1 else 1 if version & 0x10 else 2
        )
        kbits = _MP3_KBITS[is_1][bits >> 4]
        size = (144 if is_1 else 72) * 1000 * kbits // rate_hz + (bits >> 1 & 1)
        frames.append(data[position : position + size])
        position += size
    return frames


def mp3_without_header(data: bytes) -> tuple[bytes, int]:
    """Takes the Xing frame of an MP3 away.

    Returns:
        The rest, and how many samples are read of its frames.
    """
    header, *frames = mp3_frames(data)
    assert b"Xing" in header[:40] or b"Info" in header[:40]
    per_frame = 1152 if header[1] & 0x18 == 0x18 else 576
    return b"".join(frames), per_frame * len(frames) - MP3_DECODER_DELAY


# ---------------------------------------------------------------------------------------------
# FLAC


def flac_without_length(data: bytes) -> bytes:
    """Makes the number of samples unknown, as of a stream (RFC 9639, section 8.2)."""
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]


def flac_with_blocks(data: bytes, blocks: list[tuple[int, bytes]]) -> bytes:
    """Puts metadata behind STREAMINFO, of types and contents."""
    more = b"".join(bytes([kind]) + len(x).to_bytes(3, "big") + x for kind, x in blocks)
    assert data[4] == 0  # others follow STREAMINFO
    return data[:42] + more + data[42:]


# ---------------------------------------------------------------------------------------------
# WAV


def wav(
    fmt: bytes, samples: bytes, *, before=(), behind=(), data_bytes=None, riff_bytes=None
) -> bytes:
    """Puts a WAV together; sizes may be others than the true ones, chunks are (name, content)."""
    parts = [(b"fmt ", fmt), *before]
    body = b"WAVE" + b"".join(_chunk(*part) for part in parts)
    size = len(samples) if data_bytes is None else data_bytes
    body += b"data" + struct.pack("<I", size) + samples + bytes(len(samples) % 2)
    body += b"".join(_chunk(*part) for part in behind)
    return b"RIFF" + struct.pack("<I", len(body) if riff_bytes is None else riff_bytes) + body


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def wav_chunks(data: bytes) -> dict[bytes, bytes]:
    """Splits a WAV that libsndfile wrote."""
    chunks, position = {}, 12
    while position < len(data):
        size = struct.unpack("<I", data[position + 4 : position + 8])[0]
        chunks[data[position : position + 4]] = data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    return chunks


# ---------------------------------------------------------------------------------------------
# Ogg


def ogg_pages(data: bytes) -> list[bytes]:
    """Splits the pages of an Ogg file."""
    starts = [match.start() for match in re.finditer(b"OggS", data)] + [len(data)]
    return [data[a:b] for a, b in itertools.pairwise(starts)]


def ogg_with_serial(data: bytes, serial: int) -> bytes:
    """Gives all pages another stream number, and their checksums (RFC 3533, section 6)."""
    pages = []
    for page in ogg_pages(data):
        page = page[:14] + struct.pack("<I", serial) + page[18:22] + bytes(4) + page[26:]
        pages.append(page[:22] + struct.pack("<I", _ogg_crc(page)) + page[26:])
    return b"".join(pages)


def _ogg_crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    return table


_OGG_CRC = _ogg_crc_table()


def _ogg_crc(page: bytes) -> int:
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _OGG_CRC[value >> 24 ^ byte]
    return value
