"""Decoding with the program ffmpeg, if installed, for sounds that libsndfile does not read."""

import os
import re
import select
import shutil
import subprocess
import tempfile
import time

from tools.speech.containers import ContainerError

_HEADER_BYTES = 44  # of the WAV that ffmpeg writes; bytes 28 to 31 are the bytes per second
_CHUNK_BYTES = 1 << 20
MIN_SECONDS = 60.0  # time limit for the shortest sound, on a busy machine
_REAL_TIMES = 10.0  # lowest expected decoding speed, as a multiple of real time
_MESSAGE_BYTES = 1 << 12
_PREFIX = re.compile(r"^\[[^]]*\] *|[^ -~]")  # name of the component in ffmpeg's messages


class TooLong(Exception):
    """The sound is longer than accepted."""


def find() -> str | None:
    """Returns the path of ffmpeg, or None if it is not installed."""
    return shutil.which("ffmpeg")


def decode(place: str, descriptor: int, demuxer: str, max_seconds: float) -> int:
    """Decodes a sound to a temporary WAV file.

    Args:
        place: path of the sound file.
        descriptor: descriptor of the same file, which ffmpeg inherits.
        demuxer: ffmpeg's name for the container.
        max_seconds: largest accepted length of the sound.

    Returns:
        The descriptor of an unnamed WAV file with float32 samples, at the rate and with the
        channels of the sound. Its header does not give the length. The caller must close it.

    Raises:
        ContainerError: the sound cannot be decoded, or not in time.
        TooLong: the sound is longer than `max_seconds`.
        OSError: the disk is full.
    """
    command = [find() or "ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-xerror"]
    command += ["-protocol_whitelist", "file,pipe", "-f", demuxer, "-i", place]
    command += ["-map", "0:a:0", "-map_metadata", "-1", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
    deadline = time.monotonic() + MIN_SECONDS + max_seconds / _REAL_TIMES
    with tempfile.TemporaryFile() as decoded, tempfile.TemporaryFile() as messages:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            pass_fds=[descriptor],
        ) as process:
            try:
                _copy(process.stdout, decoded, deadline, max_seconds)
                process.wait(max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise ContainerError("ffmpeg did not end in time") from None
            finally:
                process.kill()
        messages.seek(0)
        said = messages.read(_MESSAGE_BYTES).decode(errors="replace").strip()
        if process.returncode or said:  # after some errors ffmpeg continues and exits with 0
            line = (said or f"exit code {process.returncode}").splitlines()[0]
            raise ContainerError(f"ffmpeg: {_PREFIX.sub('', line)}")
        decoded.flush()
        return os.dup(decoded.fileno())


def _copy(pipe, file, deadline: float, max_seconds: float) -> None:
    """Copies ffmpeg's output to a file; raises TooLong beyond the size of `max_seconds`."""
    num_bytes, most_bytes, header = 0, None, b""
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    while True:
        if not waiting.poll(1000 * max(0.0, deadline - time.monotonic())):
            raise ContainerError("ffmpeg did not end in time")
        data = os.read(pipe.fileno(), _CHUNK_BYTES)
        if not data:
            return
        file.write(data)
        num_bytes += len(data)
        if most_bytes is None:
            header += data
            if len(header) >= _HEADER_BYTES:
                bytes_per_second = int.from_bytes(header[28:32], "little")
                most_bytes = bytes_per_second * (max_seconds + 1) + _CHUNK_BYTES
        elif num_bytes > most_bytes:
            raise TooLong
