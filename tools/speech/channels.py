"""Choice of channels: one of them, their mean, or the loudest if they cancel each other."""

import contextlib
import functools
import logging
from collections.abc import Iterator

import numpy as np
import soundfile

from tools.errors import UserError
from tools.speech.containers import ContainerError
from tools.speech.sound_file import SoundFile

# Channels cancel if the energy of their mean is below this share of what independent channels would
# give. Equal channels give a share above 1, one channel beside silent ones a share of 1.
LEAST_ENERGY = 0.1
MIX, EACH = "mix", "each"
_SAID_PATHS = 4096
_log = logging.getLogger(__name__)


def checked_channels(channels: object) -> str | int:
    """Returns a choice of channels: `mix`, `each`, or the number of a channel.

    Args:
        channels: one of these; a number may be a text of digits.

    Raises:
        UserError: it is something else.
    """
    if isinstance(channels, str) and channels in (MIX, EACH):
        return channels
    is_number = isinstance(channels, int) and not isinstance(channels, bool)
    number = int(channels) if is_number or str(channels).isdecimal() else 0
    if number < 1:
        expected = "channels: mix, each, or a number from 1"
        raise UserError.expected(expected, channels, "Correct channels")
    return number


class Mono:
    """Reads a sound file as mono.

    Args:
        sound: open sound file.
        path: path of the file, for messages.
        channel: number of the channel to read, from 1; None mixes the channels: their mean, or the
            loudest channel if they cancel each other.
    """

    def __init__(self, sound: SoundFile, path: str, channel: int | None = None):
        self._sound, self._path, self._channel = sound, path, channel

    def blocks(self, block_samples: int) -> Iterator[np.ndarray]:
        """Reads the sound in pieces `[S]` float32. Files with several channels are read twice."""
        if self._channel is not None:
            return self._one(block_samples, self._channel - 1)
        if self._sound.num_channels > 1:
            # The second reading finds the damage again, after what comes before it.
            with contextlib.suppress(ContainerError, soundfile.LibsndfileError):
                for _ in self._means(block_samples):
                    pass
            if self._cancel():
                return self._loudest(block_samples)
        return self._means(block_samples)

    def whole(self, block_samples: int) -> np.ndarray:
        """Reads the whole sound, `[S]` float32."""
        nothing = np.zeros(0, np.float32)
        if self._channel is not None:
            return np.concatenate([nothing, *self._one(block_samples, self._channel - 1)])
        waveform = np.concatenate([nothing, *self._means(block_samples)])
        if self._cancel():
            return np.concatenate([*self._loudest(block_samples)])
        return waveform

    def _means(self, block_samples: int) -> Iterator[np.ndarray]:
        """Yields the mean of the channels; adds up the energies of mean and channels."""
        self._energies, self._mean_energy = np.zeros(self._sound.num_channels), 0.0
        for block in self._sound.blocks(block_samples):
            if self._sound.num_channels == 1:
                yield block[:, 0]
                continue
            with np.errstate(over="ignore", invalid="ignore"):  # the caller checks the samples
                mean = block.mean(axis=1)
                self._energies += np.einsum("sc,sc->c", block, block, dtype=np.float64)
                self._mean_energy += np.einsum("s,s", mean, mean, dtype=np.float64)
            yield mean

    def _cancel(self) -> bool:
        """Returns whether the channels cancel each other in the mean; call after `_means`."""
        independent = self._energies.sum() / len(self._energies) ** 2
        return len(self._energies) > 1 and bool(self._mean_energy < LEAST_ENERGY * independent)

    def _loudest(self, block_samples: int) -> Iterator[np.ndarray]:
        """Yields the channel with the most energy."""
        channel = int(self._energies.argmax())
        _say_cancelled(self._path, channel)
        yield from self._one(block_samples, channel)

    def _one(self, block_samples: int, channel: int) -> Iterator[np.ndarray]:
        for block in self._sound.blocks(block_samples):
            yield block[:, channel]


@functools.lru_cache(_SAID_PATHS)
def _say_cancelled(path: str, channel: int) -> None:
    """Logs a warning, once for each file."""
    _log.warning("%s: its channels cancel; using the loudest, number %d", path, channel + 1)
