"""Kinds of sound that libsndfile does not read, decoded by the program ffmpeg where it is."""

import os
import re
import select
import shutil
import subprocess
import tempfile
import time

from tools.speech.containers import ContainerError

_HEADER_BYTES = 44  # of the WAV that ffmpeg writes: its rate of bytes stands at byte 28
_CHUNK_BYTES = 1 << 20
MIN_SECONDS = 60.0  # to decode the shortest sound on a busy machine
_REAL_TIMES = 10.0  # how much faster than real time a sound is decoded, at least
_MESSAGE_BYTES = 1 << 12
_PREFIX = re.compile(r"^\[[^]]*\] *|[^ -~]")  # the part of ffmpeg that speaks


class TooLong(Exception):
    """More sound than is accepted."""


def find() -> str | None:
    """Gives the path of ffmpeg; None: it is not installed."""
    return shutil.which("ffmpeg")


def decode(place: str, descriptor: int, demuxer: str, max_seconds: float) -> int:
    """Decodes a file to a temporary one.

    Args:
        place: path of the file, which ffmpeg reads from anywhere.
        descriptor: of the same file, which ffmpeg inherits.
        demuxer: what ffmpeg calls its kind; it does not guess.
        max_seconds: of sound that is accepted.

    Returns:
        The descriptor of a WAV of float32 samples at the rate and with the channels of the sound,
        of unknown length by its header; it is to be closed, and has no name.

    Raises:
        ContainerError: it cannot be decoded, or not in time.
        TooLong: it is longer.
        OSError: there is no room for the samples.
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
        if process.returncode or said:  # it goes on after some errors
            line = (said or f"exit code {process.returncode}").splitlines()[0]
            raise ContainerError(f"ffmpeg: {_PREFIX.sub('', line)}")
        decoded.flush()
        return os.dup(decoded.fileno())


def _copy(pipe, file, deadline: float, max_seconds: float) -> None:
    """Copies what ffmpeg writes, up to what a sound of that length has."""
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
