"""Channels to one: their mean, or the loudest of them where they cancel in it."""

import functools
import logging
from collections.abc import Iterator

import numpy as np

from tools.speech.sound_file import SoundFile

# Channels cancel where their mean has less than this share of the energy that it would have if they
# were independent. Equal channels have more than that, one channel among silent ones just that.
LEAST_ENERGY = 0.1
_SAID_PATHS = 4096
_log = logging.getLogger(__name__)


class Mono:
    """A sound as one channel.

    Args:
        sound: an open file.
        path: its name for messages.
    """

    def __init__(self, sound: SoundFile, path: str):
        self._sound, self._path = sound, path

    def blocks(self, block_samples: int) -> Iterator[np.ndarray]:
        """Reads the sound piece by piece, `[S]` float32; more than one channel are read twice."""
        if self._sound.num_channels > 1:
            for _ in self._means(block_samples):
                pass
            if self._cancel():
                return self._loudest(block_samples)
        return self._means(block_samples)

    def whole(self, block_samples: int) -> np.ndarray:
        """Reads the same at once, `[S]` float32."""
        waveform = np.concatenate([np.zeros(0, np.float32), *self._means(block_samples)])
        if self._cancel():
            return np.concatenate([*self._loudest(block_samples)])
        return waveform

    def _means(self, block_samples: int) -> Iterator[np.ndarray]:
        """Reads the mean of the channels, and remembers energies."""
        self._energies, self._mean_energy = np.zeros(self._sound.num_channels), 0.0
        for block in self._sound.blocks(block_samples):
            if self._sound.num_channels == 1:
                yield block[:, 0]
                continue
            with np.errstate(over="ignore", invalid="ignore"):  # the readers judge the outcome
                mean = block.mean(axis=1)
                self._energies += np.einsum("sc,sc->c", block, block, dtype=np.float64)
                self._mean_energy += np.einsum("s,s", mean, mean, dtype=np.float64)
            yield mean

    def _cancel(self) -> bool:
        """Tells whether the channels cancel in the mean that was read."""
        independent = self._energies.sum() / len(self._energies) ** 2
        return len(self._energies) > 1 and bool(self._mean_energy < LEAST_ENERGY * independent)

    def _loudest(self, block_samples: int) -> Iterator[np.ndarray]:
        """Reads the channel of the most energy."""
        channel = int(self._energies.argmax())
        _say_cancelled(self._path, channel)
        for block in self._sound.blocks(block_samples):
            yield block[:, channel]


@functools.lru_cache(_SAID_PATHS)
def _say_cancelled(path: str, channel: int) -> None:
    """Says, once for a file, what is read of it."""
    _log.warning("%s: its channels cancel; the loudest, number %d, is read", path, channel + 1)
