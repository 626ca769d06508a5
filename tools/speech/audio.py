"""Reading of sound files, and the table of what is accepted and how it is decoded.

Training, evaluation and single-file inference all follow this table, through `probe`, `read` and
`graph_audio.utterance_dataset`. The container is detected from the content of the file.

| container                             | encoding    | channels | rate         | decoder      |
|---------------------------------------|-------------|----------|--------------|--------------|
| FLAC, fixed blocks of <= 4608 samples | 16-bit PCM  | 1        | the model's  | `graph_flac` |
| WAV with the canonical 44-byte header | 16-bit PCM  | 1        | the model's  | `graph_wav`  |
| FLAC, WAV, AIFF, OGG, MP3             | any         | any      | 4 to 384 kHz | `python`     |
| AU; NIST SPHERE with PCM or G.711     | any         | any      | 4 to 384 kHz | `python`     |
| `containers.DEMUXERS`, such as MP4    | any         | any      | 4 to 384 kHz | `python`     |
| anything else                         |             |          |              | refused      |

The python decoder (soundfile) averages the channels, or takes the loudest channel if they cancel
each other, and resamples with SoX ("HQ"). If the header does not give the length, as in files
written to a pipe or an MP3 without a Xing header, it reads to the end of the sound. If a file is
several sounds of the same kind, rate and number of channels joined together, it reads all of them.
Kinds that only ffmpeg decodes are refused if ffmpeg is not installed; ffmpeg decodes them to a
temporary file, for `probe` as well as for `read`.

Integers are scaled to [-1, 1). Floats are not scaled; samples beyond 32 are refused. The graph
decoders return exactly the same values; files that they cannot decode go to the python decoder. A
file that cannot be read completely is refused with one of `REASONS`.
"""

import numbers
import os
from collections.abc import Iterator

import numpy as np
import soxr

from tools.amounts import counted
from tools.speech.channels import EACH, MIX, Mono
from tools.speech.opening import (
    DEFAULT_LIMITS,
    GRAPH_FLAC_MAX_BLOCK_SAMPLES,
    REASONS,
    AudioError,
    AudioInfo,
    AudioLimits,
    Decoder,
    check_length,
    check_samples,
    is_known,
    opened,
    refusal,
    samples_of,
)

__all__ = [
    "DEFAULT_LIMITS",
    "GRAPH_FLAC_MAX_BLOCK_SAMPLES",
    "REASONS",
    "AudioError",
    "AudioInfo",
    "AudioLimits",
    "Decoder",
    "chosen_channels",
    "is_known",
    "is_path",
    "load",
    "load_channels",
    "probe",
    "read",
    "samples_of",
    "stream",
]

BLOCK_VALUES = 1 << 22  # values of all channels that are read at once: 16 MiB
_STREAM_SECONDS = 1  # so much before a damaged place may be lost


def probe(
    path: str | os.PathLike[str] | bytes,
    limits: AudioLimits = DEFAULT_LIMITS,
    *,
    accept_damage: bool = False,
) -> AudioInfo:
    """Checks a file and returns its length and format, without decoding samples.

    If the header does not give the correct length, frames or pages are counted. Files of the kinds
    that only ffmpeg reads are decoded.

    Args:
        path: sound file, or its bytes.
        limits: accepted lengths and rates, and the model's rate.
        accept_damage: whether the file may be damaged behind its beginning, for a caller that
            reads it with `stream`.

    Raises:
        AudioError: the file cannot be used.
    """
    with opened(path, limits, accept_damage) as (info, _):
        return info


def is_path(sound: object) -> bool:
    """Returns whether a sound is given as a path."""
    return isinstance(sound, str | os.PathLike)


def chosen_channels(info: AudioInfo, channels: str | int) -> list[int | None]:
    """Returns the numbers of the channels to read, from 1; None for the mix of all.

    Args:
        info: properties of the file.
        channels: `mix`, `each`, or a number from 1.

    Raises:
        AudioError: the file has no channel of this number.
    """
    if channels == MIX:
        return [None]
    return [*range(1, info.channels + 1)] if channels == EACH else [_checked(info, int(channels))]


def load(
    sound: object, limits: AudioLimits = DEFAULT_LIMITS, rate_hz: int | None = None
) -> np.ndarray:
    """Returns the waveform of a sound, as mono at the model's rate.

    Args:
        sound: a path, the bytes of a sound file, an open binary file, or a waveform `[S]` of floats
            in [-1, 1].
        limits: accepted lengths and rates, and the model's rate.
        rate_hz: sampling rate in Hz if `sound` is a waveform; otherwise ignored.

    Returns:
        `[S]` float32, mono at `limits.rate_hz`, finite.

    Raises:
        AudioError: the sound cannot be used.
    """
    return load_channels(sound, limits, rate_hz)[0]


def load_channels(
    sound: object,
    limits: AudioLimits = DEFAULT_LIMITS,
    rate_hz: int | None = None,
    channels: str | int = MIX,
) -> list[np.ndarray]:
    """Returns the waveforms of a sound, at the model's rate.

    Args:
        sound: see `load`.
        limits: see `load`.
        rate_hz: see `load`.
        channels: `mix` for the mix of all channels, `each` for all channels, or a number from 1 for
            this one. A waveform is channel 1.

    Returns:
        A waveform for each channel, one for `mix` or a number: `[S]` float32 at `limits.rate_hz`,
        finite.

    Raises:
        AudioError: the sound cannot be used, or has no channel of this number.
    """
    if hasattr(sound, "read"):
        do = "Open it as rb"
        try:
            sound = sound.read()
        except (OSError, ValueError) as error:  # a closed file, or text that is not UTF-8
            raise refusal("the file", "unreadable", "a binary file", error, do=do) from error
        if isinstance(sound, str):
            raise refusal("the file", "unreadable", "a binary file", "a text file", do=do)
        if not sound:
            do = "Rewind it with seek(0)"
            raise refusal("the file", "empty", "a sound file", "nothing left to read", do=do)
    if isinstance(sound, bytearray | memoryview):
        sound = bytes(sound)
    if is_path(sound) or isinstance(sound, bytes):
        if channels == MIX:
            return [read(sound, limits)]
        numbers = chosen_channels(probe(sound, limits), channels)
        return [read(sound, limits, channel=number) for number in numbers]
    if channels not in (MIX, EACH, 1):
        raise _no_channel("the waveform", channels, 1)
    return [_checked_waveform(sound, limits, rate_hz)]


def _checked_waveform(waveform: object, limits: AudioLimits, rate_hz: int | None) -> np.ndarray:
    """Checks a waveform given as an array; returns it at the model's rate."""
    place, whole = "the waveform", f"an integer from {limits.min_rate_hz} to {limits.max_rate_hz}"
    array = np.asarray(waveform)
    if not isinstance(waveform, np.ndarray) and not hasattr(waveform, "__array__"):
        expected = "a path, bytes, a binary file or an array"
        raise refusal(
            place, "unreadable", expected, type(waveform).__name__, do="Give one of these"
        )
    if array.ndim != 1:
        do = "Take the mean over the channels, or pass a list of 1-D arrays"
        raise refusal(place, "unreadable", "an array of shape [S]", f"{list(array.shape)}", do=do)
    if array.dtype.kind != "f":
        is_integer = array.dtype.kind in "iu"
        do = "Divide 16-bit integers by 32768" if is_integer else "Give the samples as float32"
        raise refusal(place, "unreadable", "floats in [-1, 1]", array.dtype, do=do)
    if rate_hz is None:
        do = "Give the sampling rate of the array"
        raise refusal(place, "rate", "rate_hz for an array", "none", do=do)
    is_number = isinstance(rate_hz, numbers.Real) and rate_hz % 1 == 0  # False for NaN, infinity
    if not is_number or not limits.min_rate_hz <= rate_hz <= limits.max_rate_hz:
        raise refusal(place, "rate", f"rate_hz: {whole}", rate_hz, do="Correct rate_hz")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    check_samples(place, array)
    num_samples = -(-len(array) * limits.rate_hz // int(rate_hz))
    check_length(place, num_samples, len(array) / rate_hz, limits)
    return _resampled(array, int(rate_hz), num_samples, limits)


def read(
    path: str | os.PathLike[str] | bytes,
    limits: AudioLimits = DEFAULT_LIMITS,
    block_values: int = BLOCK_VALUES,
    *,
    channel: int | None = None,
) -> np.ndarray:
    """Reads a file as mono at the model's rate, with the "python" decoder.

    Args:
        path: path of the file, or its bytes.
        limits: accepted lengths and rates, and the model's rate.
        block_values: number of values, over all channels, that are read at once.
        channel: number of the channel to read, from 1; None mixes the channels.

    Returns:
        `[S]` float32, mono at `limits.rate_hz`, finite; S is `probe(path, limits).num_samples`.

    Raises:
        AudioError: the file cannot be used.
    """
    with opened(path, limits) as (info, sound):
        mono = Mono(sound, info.path, None if channel is None else _checked(info, channel))
        waveform = mono.whole(max(1, block_values // sound.num_channels))
    check_samples(info.path, waveform)
    return _resampled(waveform, info.rate_hz, info.num_samples, limits)


def _resampled(
    waveform: np.ndarray, rate_hz: int, num_samples: int, limits: AudioLimits
) -> np.ndarray:
    """Resamples a waveform to the model's rate, to exactly `num_samples` samples."""
    if rate_hz == limits.rate_hz:
        return waveform
    resampled = soxr.resample(waveform, rate_hz, limits.rate_hz, quality="HQ")
    resampled = resampled[:num_samples]  # SoX rounds the length, `probe` rounds it up
    return np.pad(resampled, (0, num_samples - len(resampled)))


def _checked(info: AudioInfo, channel: int) -> int:
    if not 1 <= channel <= info.channels:
        raise _no_channel(info.path, channel, info.channels)
    return channel


def _no_channel(path: str, channel: int, num_channels: int) -> AudioError:
    expected, received = f"a sound with channel {channel}", counted(num_channels, "channel")
    return refusal(path, "channel", expected, received, do="Name one of its channels")


def stream(
    path: str | os.PathLike[str] | bytes,
    limits: AudioLimits = DEFAULT_LIMITS,
    *,
    channel: int | None = None,
) -> Iterator[np.ndarray]:
    """Reads a file in pieces, for recordings that are too long for memory; see `read`.

    Args:
        path: sound file, or its bytes.
        limits: accepted lengths and rates, and the model's rate.
        channel: number of the channel to read, from 1; None mixes the channels.

    Yields:
        `[S]` float32 pieces of about a second, mono at `limits.rate_hz`, finite. Their total length
        is `probe(path, limits).num_samples`.

    Raises:
        AudioError: the file cannot be used. Damage inside the file is reported after the pieces in
            front of it.
    """
    with opened(path, limits, accept_damage=True) as (info, sound):
        same = info.rate_hz == limits.rate_hz
        resampler = (
            None if same else soxr.ResampleStream(info.rate_hz, limits.rate_hz, 1, "float32")
        )
        num_read, missing = 0, info.num_samples
        mono = Mono(sound, info.path, None if channel is None else _checked(info, channel))
        for block in mono.blocks(_STREAM_SECONDS * info.rate_hz):
            num_read += len(block)
            check_samples(info.path, block)
            last = num_read >= sound.num_samples
            piece = block if same else resampler.resample_chunk(block, last)[:missing]
            if last and not same:  # SoX rounds the length, `probe` rounds it up
                piece = np.pad(piece, (0, missing - len(piece)))
            missing -= len(piece)
            yield piece
