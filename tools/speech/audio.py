"""The decision table for sound files: what each container, encoding, rate and channel count gets.

Training, evaluation and single-file inference all go by it, through `probe`, `read` and
`graph_audio.utterance_dataset`.

| container, by content                 | encoding    | channels | rate         | decoder      |
|---------------------------------------|-------------|----------|--------------|--------------|
| FLAC, fixed blocks of <= 4608 samples | 16-bit PCM  | 1        | the model's  | `graph_flac` |
| WAV with the canonical 44-byte header | 16-bit PCM  | 1        | the model's  | `graph_wav`  |
| FLAC, WAV, AIFF, OGG, MP3             | any         | any      | 4 to 384 kHz | `python`     |
| AU; NIST SPHERE with PCM or G.711     | any         | any      | 4 to 384 kHz | `python`     |
| `containers.DEMUXERS`, such as MP4    | any         | any      | 4 to 384 kHz | `python`     |
| anything else                         |             |          |              | refused      |

The python decoder (soundfile) takes the mean of the channels, or the loudest of them where they
cancel in the mean, and resamples (SoX, "HQ"). It reads a sound to its end where a header does not
know it, as of a pipe or of an MP3 without a Xing header, and all sounds of a file that was joined
of several of one kind, rate and number of channels. What only ffmpeg decodes is refused where that
is not installed; it decodes to a temporary file, for `probe` as for `read`.
Integers are scaled to [-1, 1); floats stay as they are, and those beyond 32 are refused. The graph
decoders give the same values bit for bit, and what they cannot read is handed to the python
decoder, which has the last word. A file is refused for one of `REASONS`, never used in part.
"""

import numbers
import os
from collections.abc import Iterator

import numpy as np
import soxr

from tools.speech.channels import Mono
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
    "is_known",
    "is_path",
    "load",
    "probe",
    "read",
    "samples_of",
    "stream",
]

BLOCK_VALUES = 1 << 22  # read at once, all channels together: 16 MiB
_STREAM_SECONDS = 10


def probe(path: str | os.PathLike[str], limits: AudioLimits = DEFAULT_LIMITS) -> AudioInfo:
    """Judges a file by its headers, without decoding a sample.

    Where a header does not tell the true length, frames or pages are counted.

    Raises:
        AudioError: the file cannot be used.
    """
    with opened(path, limits) as (info, _):
        return info


def is_path(sound: object) -> bool:
    """Tells whether a sound is given by the path of its file."""
    return isinstance(sound, str | os.PathLike)


def load(sound: object, limits: AudioLimits = DEFAULT_LIMITS, rate_hz: int | None = None):
    """Gives the waveform of a sound of any origin, as the model hears it.

    Args:
        sound: a path, the bytes of a sound file, an open binary file, or a waveform `[S]` of floats
            in [-1, 1].
        limits: what is accepted.
        rate_hz: rate of a waveform.

    Returns:
        `[S]` float32, mono at `limits.rate_hz`, finite.

    Raises:
        AudioError: the sound cannot be used.
    """
    if is_path(sound):
        return read(sound, limits)
    if hasattr(sound, "read"):
        do = "Open it as rb"
        try:
            sound = sound.read()
        except (OSError, ValueError) as error:  # closed, or text that is no UTF-8
            raise refusal("the file", "unreadable", "a binary file", error, do=do) from error
        if isinstance(sound, str):
            raise refusal("the file", "unreadable", "a binary file", "a text file", do=do)
        if not sound:
            do = "Rewind it with seek(0)"
            raise refusal("the file", "empty", "a sound file", "nothing left to read", do=do)
    if isinstance(sound, bytes | bytearray | memoryview):
        return read(bytes(sound), limits)
    return _checked(sound, limits, rate_hz)


def _checked(waveform: object, limits: AudioLimits, rate_hz: int | None) -> np.ndarray:
    """Gives a waveform that was handed over as an array, at the model's rate."""
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
        raise refusal(place, "rate", "rate_hz beside an array", "none", do=do)
    is_number = isinstance(rate_hz, numbers.Real) and rate_hz % 1 == 0  # not of NaN and infinity
    if not is_number or not limits.min_rate_hz <= rate_hz <= limits.max_rate_hz:
        raise refusal(place, "rate", f"rate_hz: {whole}", rate_hz, do="Correct it")
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
) -> np.ndarray:
    """Reads a file as the model hears it: the "python" decoder, and all of single-file input.

    Args:
        path: of the file, or its bytes.
        limits: what is accepted.
        block_values: samples of all channels together that are read at once.

    Returns:
        [S] float32, mono at `limits.rate_hz`, finite; S is `probe(path, limits).num_samples`.

    Raises:
        AudioError: the file cannot be used.
    """
    with opened(path, limits) as (info, sound):
        waveform = Mono(sound, info.path).whole(max(1, block_values // sound.num_channels))
    check_samples(info.path, waveform)
    return _resampled(waveform, info.rate_hz, info.num_samples, limits)


def _resampled(
    waveform: np.ndarray, rate_hz: int, num_samples: int, limits: AudioLimits
) -> np.ndarray:
    """Brings a waveform to the model's rate, with exactly `num_samples`."""
    if rate_hz == limits.rate_hz:
        return waveform
    resampled = soxr.resample(waveform, rate_hz, limits.rate_hz, quality="HQ")
    resampled = resampled[:num_samples]  # SoX rounds the length, `probe` rounds it up
    return np.pad(resampled, (0, num_samples - len(resampled)))


def stream(
    path: str | os.PathLike[str], limits: AudioLimits = DEFAULT_LIMITS
) -> Iterator[np.ndarray]:
    """Reads a file like `read`, piece by piece, for what is too long to be held at once.

    Yields:
        `[S]` float32 pieces of a few seconds, mono at `limits.rate_hz`, finite; together they have
        `probe(path, limits).num_samples`.

    Raises:
        AudioError: the file cannot be used; what is damaged may come out only after some pieces.
    """
    with opened(path, limits) as (info, sound):
        same = info.rate_hz == limits.rate_hz
        resampler = (
            None if same else soxr.ResampleStream(info.rate_hz, limits.rate_hz, 1, "float32")
        )
        num_read, missing = 0, info.num_samples
        for block in Mono(sound, info.path).blocks(_STREAM_SECONDS * info.rate_hz):
            num_read += len(block)
            check_samples(info.path, block)
            last = num_read >= sound.num_samples
            piece = block if same else resampler.resample_chunk(block, last)[:missing]
            if last and not same:  # SoX rounds the length, `probe` rounds it up
                piece = np.pad(piece, (0, missing - len(piece)))
            missing -= len(piece)
            yield piece
