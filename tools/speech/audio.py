"""The decision table for sound files: what each container, encoding, rate and channel count gets.

Training, evaluation and single-file inference all go by it, through `probe`, `read` and
`graph_audio.utterance_dataset`.

| container, by content                 | encoding    | channels | rate         | decoder      |
|---------------------------------------|-------------|----------|--------------|--------------|
| FLAC, fixed blocks of <= 4608 samples | 16-bit PCM  | 1        | the model's  | `graph_flac` |
| WAV with the canonical 44-byte header | 16-bit PCM  | 1        | the model's  | `graph_wav`  |
| FLAC, WAV, AIFF, OGG, MP3             | any         | any      | 4 to 384 kHz | `python`     |
| anything else                         |             |          |              | refused      |

The python decoder (soundfile) takes the mean of the channels, or the loudest of them where they
cancel in the mean, and resamples (SoX, "HQ"). It reads a sound to its end where a header does not
know it, as of a pipe or of an MP3 without a Xing header, and all sounds of a file that was joined
of several of one kind, rate and number of channels.
Integers are scaled to [-1, 1); floats stay as they are, also out of that range. The graph decoders
give the same values bit for bit, and what they cannot read is handed to the python decoder, which
has the last word. A file is refused for one of `REASONS`, never used in part.
"""

import contextlib
import numbers
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soundfile
import soxr

from tools.errors import UserError
from tools.speech import chunks, containers, flac_frames
from tools.speech.channels import Mono
from tools.speech.sound_file import SoundFile

Decoder = Literal["graph_flac", "graph_wav", "python"]

REASONS = {
    "missing": "no such file, or a link to nothing",
    "not_a_file": "a folder, a named pipe, a device",
    "unreadable": "no permission, unknown container, damaged data, no length in the header",
    "empty": "no bytes, or no samples",
    "truncated": "fewer bytes, frames or samples than a header promises",
    "rate": "a sampling rate below min_rate_hz or above max_rate_hz",
    "too_short": "shorter than min_seconds",
    "too_long": "longer than max_seconds, by the header alone",
    "non_finite": "a NaN or an infinity among the samples",
}

GRAPH_FLAC_MAX_BLOCK_SAMPLES = 4608  # the largest block of the FLAC "subset" up to 48 kHz
BLOCK_VALUES = 1 << 22  # read at once, all channels together: 16 MiB
_STREAM_SECONDS = 10
_UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says


class AudioError(UserError):
    """A sound file that cannot be used.

    Attributes:
        path: the file.
        reason: one of the keys of `REASONS`.
    """

    def __init__(self, message: str, *, path: str = "", reason: str = "unreadable"):
        super().__init__(message)
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """The model's rate and what is accepted; all bounds are inclusive."""

    rate_hz: int = 16000
    min_seconds: float = 0.025
    max_seconds: float = 35.0
    min_rate_hz: int = 4000
    max_rate_hz: int = 384000


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file is: `num_samples` at the model's rate, `rate_hz` is the file's own."""

    path: str
    num_samples: int
    duration_seconds: float
    rate_hz: int
    channels: int
    container: str
    encoding: str
    decoder: Decoder


DEFAULT_LIMITS = AudioLimits()


def probe(path: str | os.PathLike[str], limits: AudioLimits = DEFAULT_LIMITS) -> AudioInfo:
    """Judges a file by its headers, without decoding a sample.

    Where a header does not tell the true length, frames or pages are counted.

    Raises:
        AudioError: the file cannot be used.
    """
    with _opened(path, limits) as (info, _):
        return info


def is_known(path: str | os.PathLike[str]) -> bool:
    """Tells whether a file begins like one of the kinds of sound that have a name here."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = _descriptor(os.fspath(path))
            stack.callback(os.close, descriptor)
            containers.look(descriptor)
        except (AudioError, containers.ContainerError, OSError):
            return False
        return True


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
            raise _error("the file", "unreadable", "a binary file", error, do=do) from error
        if isinstance(sound, str):
            raise _error("the file", "unreadable", "a binary file", "a text file", do=do)
    if isinstance(sound, bytes | bytearray | memoryview):
        return read(bytes(sound), limits)
    return _checked(sound, limits, rate_hz)


def _checked(waveform: object, limits: AudioLimits, rate_hz: int | None) -> np.ndarray:
    """Gives a waveform that was handed over as an array, at the model's rate."""
    place, whole = "the waveform", f"an integer from {limits.min_rate_hz} to {limits.max_rate_hz}"
    array = np.asarray(waveform)
    if not isinstance(waveform, np.ndarray) and not hasattr(waveform, "__array__"):
        expected = "a path, bytes, a binary file or an array"
        raise _error(place, "unreadable", expected, type(waveform).__name__, do="Give one of these")
    if array.ndim != 1:
        do = "Take the mean over the channels"
        raise _error(place, "unreadable", "an array of shape [S]", f"{list(array.shape)}", do=do)
    if array.dtype.kind != "f":
        do = "Divide 16-bit integers by 32768"
        raise _error(place, "unreadable", "floats in [-1, 1]", array.dtype, do=do)
    if rate_hz is None:
        do = "Give the sampling rate of the array"
        raise _error(place, "rate", "rate_hz beside an array", "none", do=do)
    is_number = isinstance(rate_hz, numbers.Real) and rate_hz == int(rate_hz)
    if not is_number or not limits.min_rate_hz <= rate_hz <= limits.max_rate_hz:
        raise _error(place, "rate", f"rate_hz: {whole}", rate_hz, do="Correct it")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise _non_finite(place)
    num_samples = -(-len(array) * limits.rate_hz // int(rate_hz))
    _check_length(place, num_samples, len(array) / rate_hz, limits)
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
    with _opened(path, limits) as (info, sound):
        waveform = Mono(sound, info.path).whole(max(1, block_values // sound.num_channels))
    if np.isfinite(waveform).all():
        waveform = _resampled(waveform, info.rate_hz, info.num_samples, limits)
    if not np.isfinite(waveform).all():
        raise _non_finite(info.path)
    return waveform


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
    with _opened(path, limits) as (info, sound):
        same = info.rate_hz == limits.rate_hz
        resampler = (
            None if same else soxr.ResampleStream(info.rate_hz, limits.rate_hz, 1, "float32")
        )
        num_read, missing = 0, info.num_samples
        for block in Mono(sound, info.path).blocks(_STREAM_SECONDS * info.rate_hz):
            num_read += len(block)
            if not np.isfinite(block).all():
                raise _non_finite(info.path)
            last = num_read >= sound.num_samples
            piece = block if same else resampler.resample_chunk(block, last)[:missing]
            if last and not same:  # SoX rounds the length, `probe` rounds it up
                piece = np.pad(piece, (0, missing - len(piece)))
            missing -= len(piece)
            yield piece


@contextlib.contextmanager
def _opened(
    source: str | os.PathLike[str] | bytes, limits: AudioLimits
) -> Iterator[tuple[AudioInfo, SoundFile]]:
    """Opens a file and judges its header; what goes wrong while it is open becomes AudioError."""
    in_memory, kind = isinstance(source, bytes), ""
    path = "the bytes" if in_memory else os.fspath(source)
    with contextlib.ExitStack() as stack:
        try:
            descriptor = _memory_file(source) if in_memory else _descriptor(path)
            stack.callback(os.close, descriptor)
            if not os.fstat(descriptor).st_size:
                raise _error(path, "empty", "a sound file", "0 bytes", do="Write it again")
            kind, start = containers.look(descriptor)
            sound = SoundFile(descriptor, kind, start)
            yield _judged(path, sound, descriptor, limits=limits), sound
        except containers.ContainerError as error:
            expected, reason = "a readable sound file", "unreadable"
            if error.truncated:
                expected, reason = "a complete sound file", "truncated"
            raise _error(path, reason, expected, error, do="Fetch or write it again") from error
        except soundfile.LibsndfileError as error:
            detail, do = f"damaged or unknown {kind} data", "Fetch or write it again"
            raise _error(path, "unreadable", "a readable sound file", detail, do=do) from error
        except OSError as error:
            detail, do = error.strerror or error, "Check the file and its permissions"
            raise _error(path, "unreadable", "a readable sound file", detail, do=do) from error


def _memory_file(data: bytes) -> int:
    """Gives the descriptor of a file in memory, so that bytes are judged as files are."""
    descriptor = os.memfd_create("sound", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _descriptor(path: str) -> int:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _error(
            path, "missing", "a sound file", "no such file", do="Check the path"
        ) from error
    except ValueError as error:  # a NUL in the path
        raise _error(path, "missing", "a sound file", error, do="Check the path") from error
    if not stat.S_ISREG(mode):  # told before opening it: a named pipe would wait for ever
        detail = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise _error(path, "not_a_file", "a sound file", detail, do="Name a sound file")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _judged(path: str, sound: SoundFile, descriptor: int, *, limits: AudioLimits) -> AudioInfo:
    rate_hz, num_frames = sound.rate_hz, sound.num_samples
    if not limits.min_rate_hz <= rate_hz <= limits.max_rate_hz:
        expected = f"a sampling rate of {limits.min_rate_hz} to {limits.max_rate_hz} Hz"
        do = f"Write it again, best at {limits.rate_hz} Hz"
        raise _error(path, "rate", expected, f"{rate_hz} Hz", do=do)
    if num_frames <= 0:
        raise _error(path, "empty", "a sound file", "no samples", do="Write it again")
    if num_frames >= _UNKNOWN_FRAMES:  # FLAC inside Ogg, from a pipe
        detail = "none, as of a stream"
        raise _error(path, "unreadable", "a length in the header", detail, do="Write it again")
    duration_seconds = num_frames / rate_hz
    num_samples = -(-num_frames * limits.rate_hz // rate_hz)
    _check_length(path, num_samples, duration_seconds, limits)
    decoder = "python"
    is_mono = sound.num_channels == 1 and rate_hz == limits.rate_hz
    if sound.is_plain and sound.encoding == "PCM_16" and is_mono:
        head = os.pread(descriptor, 44, 0)
        if head[:4] == b"fLaC":
            block_samples = flac_frames.block_samples(descriptor)
            if 0 < block_samples <= GRAPH_FLAC_MAX_BLOCK_SAMPLES:
                decoder = "graph_flac"
        elif chunks.is_canonical_wav(head):
            decoder = "graph_wav"
    return AudioInfo(
        path=path,
        num_samples=num_samples,
        duration_seconds=duration_seconds,
        rate_hz=rate_hz,
        channels=sound.num_channels,
        container=sound.container,
        encoding=sound.encoding,
        decoder=decoder,
    )


def _check_length(
    path: str, num_samples: int, duration_seconds: float, limits: AudioLimits
) -> None:
    if num_samples < samples_of(limits.min_seconds, limits):
        expected, received = f"at least {limits.min_seconds:g} s", f"{duration_seconds:.4g} s"
        raise _error(path, "too_short", expected, received, do="Leave it out")
    if num_samples > samples_of(limits.max_seconds, limits):
        expected, received = f"at most {limits.max_seconds:g} s", f"{duration_seconds:.1f} s"
        raise _error(path, "too_long", expected, received, do="Cut it or raise the limit")


def _non_finite(path: str) -> AudioError:
    return _error(path, "non_finite", "finite samples", "NaN or infinity", do="Write it again")


def samples_of(seconds: float, limits: AudioLimits) -> int:
    """Converts seconds to samples at the model's rate."""
    return round(seconds * limits.rate_hz)


def _error(path: str, reason: str, expected: str, received: object, *, do: str) -> AudioError:
    message = str(UserError.expected(expected, f"{path}: {received}", do))
    return AudioError(message, path=path, reason=reason)
