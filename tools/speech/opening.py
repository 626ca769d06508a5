"""Sound files opened and judged: what is accepted, and why the others are refused."""

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soundfile

from tools.errors import UserError
from tools.files import one_line
from tools.speech import chunks, containers, ffmpeg, flac_frames
from tools.speech.sound_file import SoundFile

Decoder = Literal["graph_flac", "graph_wav", "python"]

REASONS = {
    "missing": "no such file, or a link to nothing",
    "not_a_file": "a folder, a named pipe, a device",
    "unreadable": "no permission, unknown container, damaged data, no length in the header",
    "unsupported": "a kind that ffmpeg alone decodes, which is not installed",
    "empty": "no bytes, or no samples",
    "truncated": "fewer bytes, frames or samples than a header promises",
    "rate": "a sampling rate below min_rate_hz or above max_rate_hz",
    "too_short": "shorter than min_seconds",
    "too_long": "longer than max_seconds",
    "non_finite": "a NaN or an infinity among the samples",
    "implausible": "float samples beyond 32, which is 30 dB above full scale",
}
LARGEST_SAMPLE = 32.0

GRAPH_FLAC_MAX_BLOCK_SAMPLES = 4608  # the largest block of the FLAC "subset" up to 48 kHz
_READ_WITHOUT_FFMPEG = "FLAC, WAV, AIFF, AU, OGG, MP3 or plain NIST SPHERE"
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


@contextlib.contextmanager
def opened(
    source: str | os.PathLike[str] | bytes, limits: AudioLimits
) -> Iterator[tuple[AudioInfo, SoundFile]]:
    """Opens a file and judges its headers; what goes wrong while it is open becomes AudioError.

    Args:
        source: path of the file, or its bytes.
        limits: what is accepted.

    Yields:
        What the file is, and the file.

    Raises:
        AudioError: the file cannot be used.
    """
    in_memory, kind = isinstance(source, bytes), ""
    path = "the bytes" if in_memory else os.fspath(source)
    with contextlib.ExitStack() as stack:
        try:
            descriptor = _memory_file(source) if in_memory else _descriptor(path)
            stack.callback(os.close, descriptor)
            if not os.fstat(descriptor).st_size:
                raise refusal(path, "empty", "a sound file", "0 bytes", do="Write it again")
            kind, start = containers.look(descriptor)
            if kind in containers.DEMUXERS:
                place = f"/proc/self/fd/{descriptor}" if in_memory else os.path.abspath(path)
                descriptor = _converted(path, place, descriptor, kind, limits=limits)
                stack.callback(os.close, descriptor)
                sound = SoundFile(descriptor, "WAV", 0)
                sound.container = kind
            else:
                sound = SoundFile(descriptor, kind, start)
            yield _judged(path, sound, descriptor, limits=limits), sound
        except containers.ContainerError as error:
            expected, reason = "a readable sound file", "unreadable"
            if error.truncated:
                expected, reason = "a complete sound file", "truncated"
            raise refusal(path, reason, expected, error, do="Fetch or write it again") from error
        except soundfile.LibsndfileError as error:
            detail, do = f"damaged or unknown {kind} data", "Fetch or write it again"
            raise refusal(path, "unreadable", "a readable sound file", detail, do=do) from error
        except OSError as error:
            detail, do = error.strerror or error, "Check the file and its permissions"
            raise refusal(path, "unreadable", "a readable sound file", detail, do=do) from error


def _converted(path: str, place: str, descriptor: int, kind: str, *, limits: AudioLimits) -> int:
    """Gives the descriptor of what ffmpeg makes of a file."""
    if ffmpeg.find() is None:
        wav = os.path.splitext(path)[0] + ".wav"
        do = f"Install ffmpeg, or convert it: ffmpeg -i {_quoted(path)} {_quoted(wav)}"
        raise refusal(path, "unsupported", _READ_WITHOUT_FFMPEG, kind, do=do)
    containers.check_alone(descriptor, kind)
    try:
        return ffmpeg.decode(place, descriptor, containers.DEMUXERS[kind], limits.max_seconds)
    except ffmpeg.TooLong:
        raise _too_long(path, "more", limits) from None


def _quoted(path: str) -> str:
    """Writes a path as a word for bash."""
    return shlex.quote(path) if one_line(path) == path else "$" + shlex.quote(one_line(path))


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
        raise refusal(
            path, "missing", "a sound file", "no such file", do="Check the path"
        ) from error
    except ValueError as error:  # a NUL in the path
        raise refusal(path, "missing", "a sound file", error, do="Check the path") from error
    if not stat.S_ISREG(mode):  # told before opening it: a named pipe would wait for ever
        detail = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise refusal(path, "not_a_file", "a sound file", detail, do="Name a sound file")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _judged(path: str, sound: SoundFile, descriptor: int, *, limits: AudioLimits) -> AudioInfo:
    rate_hz, num_frames = sound.rate_hz, sound.num_samples
    if not limits.min_rate_hz <= rate_hz <= limits.max_rate_hz:
        expected = f"a sampling rate of {limits.min_rate_hz} to {limits.max_rate_hz} Hz"
        do = f"Write it again, best at {limits.rate_hz} Hz"
        raise refusal(path, "rate", expected, f"{rate_hz} Hz", do=do)
    if num_frames <= 0:
        raise refusal(path, "empty", "a sound file", "no samples", do="Write it again")
    if num_frames >= _UNKNOWN_FRAMES:
        detail = "none, as of a stream"
        raise refusal(path, "unreadable", "a length in the header", detail, do="Write it again")
    duration_seconds = num_frames / rate_hz
    num_samples = -(-num_frames * limits.rate_hz // rate_hz)
    check_length(path, num_samples, duration_seconds, limits)
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


def check_length(path: str, num_samples: int, duration_seconds: float, limits: AudioLimits) -> None:
    """Refuses a sound that is shorter or longer than the limits allow.

    Args:
        path: its name.
        num_samples: at the model's rate.
        duration_seconds: for the message.
        limits: what is accepted.

    Raises:
        AudioError: it is.
    """
    if num_samples < samples_of(limits.min_seconds, limits):
        expected, received = f"at least {limits.min_seconds:g} s", f"{duration_seconds:.4g} s"
        raise refusal(path, "too_short", expected, received, do="Leave it out")
    if num_samples > samples_of(limits.max_seconds, limits):
        raise _too_long(path, f"{duration_seconds:.1f} s", limits)


def _too_long(path: str, received: str, limits: AudioLimits) -> AudioError:
    expected = f"at most {limits.max_seconds:g} s"
    return refusal(path, "too_long", expected, received, do="Cut it or raise the limit")


def samples_of(seconds: float, limits: AudioLimits) -> int:
    """Converts seconds to samples at the model's rate."""
    return round(seconds * limits.rate_hz)


def check_samples(path: str, samples: np.ndarray) -> None:
    """Refuses samples that no recording has.

    Loud mixes of floats go beyond full scale (1.0) by some decibels. A larger sample than
    `LARGEST_SAMPLE` is damage, or the file has another scale, such as that of 16-bit integers.

    Raises:
        AudioError: a sample is not finite, or larger than that.
    """
    largest = np.abs(samples).max(initial=0.0)
    if not np.isfinite(largest):
        raise refusal(path, "non_finite", "finite samples", "NaN or infinity", do="Write it again")
    if largest > LARGEST_SAMPLE:
        raise refusal(
            path,
            "implausible",
            f"float samples in [-1, 1], or at most {LARGEST_SAMPLE:g}",
            f"{largest:.4g}",
            do="Scale them to [-1, 1], or repair the sample if it is one alone",
        )


def refusal(path: str, reason: str, expected: str, received: object, *, do: str) -> AudioError:
    """Makes the error for a sound: its name, a key of `REASONS`, and the parts of the sentence."""
    message = str(UserError.expected(expected, f"{one_line(path)}: {received}", do))
    return AudioError(message, path=path, reason=reason)
