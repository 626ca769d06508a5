"""Opens sound files and checks whether they are accepted."""

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
    "missing": "no such file, or a broken link",
    "not_a_file": "a folder, a named pipe or a device",
    "unreadable": "no permission, unknown container, damaged data, no length in the header",
    "unsupported": "a kind that only ffmpeg decodes, and ffmpeg is not installed",
    "empty": "no bytes, or no samples",
    "truncated": "fewer bytes, frames or samples than the header declares",
    "rate": "a sampling rate below min_rate_hz or above max_rate_hz",
    "too_short": "shorter than min_seconds",
    "too_long": "longer than max_seconds",
    "channel": "fewer channels than the one that was asked for",
    "non_finite": "a NaN or an infinity among the samples",
    "implausible": "float samples beyond 32, which is 30 dB above full scale",
}
LARGEST_SAMPLE = 32.0

GRAPH_FLAC_MAX_BLOCK_SAMPLES = 4608  # the largest block of the FLAC "subset" up to 48 kHz
_READ_WITHOUT_FFMPEG = "FLAC, WAV, AIFF, AU, OGG, MP3 or plain NIST SPHERE"
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's value for an unknown length


class AudioError(UserError):
    """A sound file that cannot be used.

    Attributes:
        path: path of the file.
        reason: a key of `REASONS`.
    """

    def __init__(self, message: str, *, path: str = "", reason: str = "unreadable"):
        super().__init__(message)
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """The model's rate, and the lengths and rates that are accepted; all bounds are inclusive."""

    rate_hz: int = 16000
    min_seconds: float = 0.025
    max_seconds: float = 35.0
    min_rate_hz: int = 4000
    max_rate_hz: int = 384000


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Properties of a sound file.

    Attributes:
        path: path of the file.
        num_samples: length in samples at the model's rate.
        duration_seconds: length in seconds.
        rate_hz: sampling rate of the file.
        channels: number of channels of the file.
        container: name of the container, such as WAV.
        encoding: name of the encoding, such as PCM_16.
        decoder: decoder to use; see the table in `tools.speech.audio`.
    """

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
    """Returns whether the first bytes of a file are those of a known kind of sound."""
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
    source: str | os.PathLike[str] | bytes, limits: AudioLimits, accept_damage: bool = False
) -> Iterator[tuple[AudioInfo, SoundFile]]:
    """Opens a sound file and checks its headers.

    Errors of libsndfile and of the system inside the block become AudioError.

    Args:
        source: path of the file, or its bytes.
        limits: accepted lengths and rates, and the model's rate.
        accept_damage: see `SoundFile`.

    Yields:
        The properties of the file, and the open file.

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
                sound = SoundFile(descriptor, kind, start, accept_damage)
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
    """Decodes a file with ffmpeg; returns the descriptor of the result."""
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
    """Returns a path quoted for bash."""
    return shlex.quote(path) if one_line(path) == path else "$" + shlex.quote(one_line(path))


def _memory_file(data: bytes) -> int:
    """Returns the descriptor of a file in memory, so that bytes are checked as files are."""
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
    except ValueError as error:  # the path contains a NUL character
        raise refusal(path, "missing", "a sound file", error, do="Check the path") from error
    if not stat.S_ISREG(mode):  # check before opening: opening a named pipe would block
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
        detail = "none, as in a stream"
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
    """Checks that the length of a sound is within the limits.

    Args:
        path: name of the sound, for the message.
        num_samples: length in samples at the model's rate.
        duration_seconds: length in seconds, for the message.
        limits: accepted lengths.

    Raises:
        AudioError: the sound is too short or too long.
    """
    if num_samples < samples_of(limits.min_seconds, limits):
        expected, received = f"at least {limits.min_seconds:g} s", f"{duration_seconds:.4g} s"
        raise refusal(path, "too_short", expected, received, do="Leave it out")
    if num_samples > samples_of(limits.max_seconds, limits):
        raise _too_long(path, f"{duration_seconds:.1f} s", limits)


def _too_long(path: str, received: str, limits: AudioLimits) -> AudioError:
    expected = f"at most {limits.max_seconds:g} s"
    return refusal(path, "too_long", expected, received, do="Cut the sound or raise the limit")


def samples_of(seconds: float, limits: AudioLimits) -> int:
    """Converts seconds to a number of samples at the model's rate."""
    return round(seconds * limits.rate_hz)


def check_samples(path: str, samples: np.ndarray) -> None:
    """Checks that samples are finite and not implausibly large.

    Loud mixes stored as floats may exceed full scale (1.0) by some decibels. A sample above
    `LARGEST_SAMPLE` means that the file is damaged, or scaled differently, such as 16-bit integers
    stored as floats.

    Args:
        path: name of the sound, for the message.
        samples: samples of any shape.

    Raises:
        AudioError: a sample is not finite, or above `LARGEST_SAMPLE`.
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
            do="Scale the samples to [-1, 1], or repair single bad samples",
        )


def refusal(path: str, reason: str, expected: str, received: object, *, do: str) -> AudioError:
    """Returns the error for a sound that cannot be used.

    Args:
        path: name of the sound.
        reason: a key of `REASONS`.
        expected: see `UserError.expected`.
        received: see `UserError.expected`; the name of the sound is put before it.
        do: see `UserError.expected`.
    """
    message = str(UserError.expected(expected, f"{one_line(path)}: {received}", do))
    return AudioError(message, path=path, reason=reason)
