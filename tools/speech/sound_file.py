"""Reads all samples of a sound file, also if it is several sounds joined together."""

import contextlib
import functools
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


class _ForwardFile(soundfile.SoundFile):
    """A sound file that is read from its start to its end.

    After each block, soundfile seeks to the place that it has reached (soundfile 0.14.0,
    `_cdata_io`). In MP3 and Ogg, this loses the decoder's state, and the next samples are wrong.
    """

    def seekable(self) -> bool:
        """Returns False, so that blocks follow each other without a seek."""
        return False


class SoundFile:
    """An open sound file with one sound, or several sounds (parts) joined together.

    Args:
        descriptor: open file; it is not closed.
        kind: result of `containers.kind` that libsndfile can read.
        start: position of the sound in bytes, after ID3 tags.
        accept_damage: whether the file may break off or be damaged behind its first sound. `blocks`
            then yields what is in front of the damage, and raises the error.

    Attributes:
        rate_hz: sampling rate, the same for all parts.
        num_channels: number of channels, the same for all parts.
        num_samples: number of samples in each channel, over all parts; of a damaged Ogg file, as
            many as its last page declares.
        container: libsndfile's name of the container.
        encoding: libsndfile's name of the encoding.
        is_plain: whether the file is a single sound that starts at the first byte and has a correct
            header.

    Raises:
        ContainerError: the file is damaged, or its parts have different rates or channels.
        soundfile.LibsndfileError: libsndfile cannot read the file.
    """

    def __init__(self, descriptor: int, kind: str, start: int, accept_damage: bool = False):
        self._descriptor, self._kind, self._start = descriptor, kind, start
        self._size = os.fstat(descriptor).st_size
        self._damage: ContainerError | None = None
        find = _PARTS[kind]
        if kind == "OGG" and accept_damage:
            find = functools.partial(find, check=True)
        try:
            self._parts = find(descriptor, start, self._size)
        except ContainerError as error:
            if not (accept_damage and error.before):
                raise
            self._parts, self._damage = [*error.before], error
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
        if self._damage is not None:
            if not self.num_samples:
                raise self._damage
            if kind == "OGG":
                self.num_samples = max(self.num_samples, self._declared_samples())
        self.is_plain = self._parts == [Part(0, self._size)]

    def blocks(self, block_samples: int) -> Iterator[np.ndarray]:
        """Reads the samples in blocks.

        Args:
            block_samples: number of samples per channel that are read at once.

        Yields:
            `[S, channels]` float32.

        Raises:
            ContainerError: there are fewer samples than `num_samples`, or an Ogg page is damaged.
            soundfile.LibsndfileError: the data is damaged.
        """
        if self._kind == "OGG" and self._damage is None:
            ogg_pages.parts(self._descriptor, self._start, self._size, check=True)
        for part, length in zip(self._parts, self._lengths, strict=True):
            num_read = 0
            with self._opened(part) as sound:
                # `sound.blocks` returns uninitialized memory if a file ends too early.
                while True:
                    # Behind its last sample, a file may have other data.
                    wanted = min(block_samples, sound.frames - num_read)
                    with self._quiet():
                        block = sound.read(wanted, dtype="float32", always_2d=True)
                    if not len(block):
                        break
                    num_read += len(block)
                    yield block
            if num_read != length and self._damage is None:
                raise ContainerError(f"{num_read} of {length} samples", truncated=True)
        if self._damage is not None:
            raise self._damage

    def _declared_samples(self) -> int:
        """Returns the number of samples by the last Ogg page; 0 if it is unknown."""
        *before, last = self._parts
        try:
            with self._opened(Part(last.start, self._size)) as sound:
                return sum(self._lengths[: len(before)]) + sound.frames
        except soundfile.LibsndfileError:
            return 0

    @contextlib.contextmanager
    def _opened(self, part: Part) -> Iterator[soundfile.SoundFile]:
        is_whole = part == Part(0, self._size)
        if is_whole:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        file = self._descriptor if is_whole else PartFile(self._descriptor, part)
        with self._quiet():
            sound = _ForwardFile(file, closefd=False)
        with sound:
            yield sound

    def _quiet(self) -> contextlib.AbstractContextManager:
        """Returns a context that turns off stderr during a call that reads MP3."""
        is_noisy = self._kind == "MP3"
        return containers.quiet_stderr() if is_noisy else contextlib.nullcontext()
