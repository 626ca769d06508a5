"""The samples of a sound file, all of them, of all sounds that are joined in it."""

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np
import soundfile

from tools.speech import chunks, containers, flac_frames, mp3_frames, ogg_pages
from tools.speech.containers import ContainerError, Part, PartFile

_PARTS: dict[str, Callable[[int, int, int], list[Part]]] = {
    "WAV": chunks.parts,
    "AIFF": chunks.parts,
    "AU": chunks.au_parts,
    "NIST": chunks.sphere_parts,
    "FLAC": flac_frames.parts,
    "OGG": ogg_pages.parts,
    "MP3": mp3_frames.parts,
}


class SoundFile:
    """An open file of one sound, or of several that are joined.

    Args:
        descriptor: of the file; stays open.
        kind: of `containers.kind`, read by libsndfile.
        start: byte where the sound begins, behind ID3 tags.

    Attributes:
        rate_hz: of all parts.
        num_channels: of all parts.
        num_samples: of each channel, all parts together.
        container: as libsndfile names it.
        encoding: as libsndfile names it.
        is_plain: whether it is one sound from the first byte on whose header is right.

    Raises:
        ContainerError: the file cannot be trusted, or its parts do not fit together.
        soundfile.LibsndfileError: libsndfile cannot read it.
    """

    def __init__(self, descriptor: int, kind: str, start: int):
        self._descriptor, self._kind, self._start = descriptor, kind, start
        self._size = os.fstat(descriptor).st_size
        self._parts = _PARTS[kind](descriptor, start, self._size)
        self._lengths, forms = [], set()
        for part in self._parts:
            with self._opened(part) as sound:
                if not self._lengths:
                    self.container, self.encoding = sound.format, sound.subtype
                forms.add((sound.samplerate, sound.channels))
                self._lengths.append(part.num_samples or sound.frames)
        if len(forms) > 1:
            found = " and ".join(f"{rate} Hz, {count} channels" for rate, count in sorted(forms))
            raise ContainerError(f"joined sounds of {found}")
        ((self.rate_hz, self.num_channels),) = forms
        self.num_samples = sum(self._lengths)
        self.is_plain = self._parts == [Part(0, self._size)]

    def blocks(self, block_samples: int) -> Iterator[np.ndarray]:
        """Reads the samples.

        Args:
            block_samples: read at once, of each channel.

        Yields:
            `[S, channels]` float32.

        Raises:
            ContainerError: there are fewer samples than `num_samples`, or an Ogg page is damaged.
            soundfile.LibsndfileError: damaged data.
        """
        if self._kind == "OGG":
            ogg_pages.parts(self._descriptor, self._start, self._size, check=True)
        for part, length in zip(self._parts, self._lengths, strict=True):
            num_read = 0
            with self._opened(part) as sound:
                # Not `sound.blocks`: it hands out uninitialised memory where a file ends too early.
                while True:
                    with self._quiet():
                        block = sound.read(block_samples, dtype="float32", always_2d=True)
                    if not len(block):
                        break
                    num_read += len(block)
                    yield block
            if num_read != length:
                raise ContainerError(f"{num_read} of {length} samples", truncated=True)

    @contextlib.contextmanager
    def _opened(self, part: Part) -> Iterator[soundfile.SoundFile]:
        is_whole = part == Part(0, self._size)
        if is_whole:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        file = self._descriptor if is_whole else PartFile(self._descriptor, part)
        with self._quiet():
            sound = soundfile.SoundFile(file, closefd=False)
        with sound:
            yield sound

    def _quiet(self) -> contextlib.AbstractContextManager:
        """Turns the stderr of the process off for a call that reads MP3, and for no longer."""
        is_noisy = self._kind == "MP3"
        return containers.quiet_stderr() if is_noisy else contextlib.nullcontext()
