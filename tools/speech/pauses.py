"""Shortens long pauses before the model runs, and restores the full number of frames afterwards.

Some models normalize each sound by its own mean and variance. If a large part of the sound is
silent, this amplifies the words too much, and a sound with noise only is amplified to the level of
words. Without long pauses, a chunk of a recording is normalized like the training utterances.
"""

from typing import NamedTuple

import numpy as np

_SILENCE_DB = 35.0  # frames at least this far below the loudest frame count as silent
_FORGOTTEN_DB = 10.0  # decrease of the loudest earlier level with each chunk


class Shortened(NamedTuple):
    """A sound without its long pauses.

    Attributes:
        sound: `[S]` samples that are left.
        kept: `[N]` numbers of the original frames that are left.
        num_removed: number of the original frames that were removed.
    """

    sound: np.ndarray
    kept: np.ndarray
    num_removed: int

    def restored(self, frames: np.ndarray) -> np.ndarray:
        """Fills the removed frames by repeating the frame before them.

        Args:
            frames: `[T, D]` output of the model for `sound`.

        Returns:
            `[T + num_removed, D]` frames for the original sound.
        """
        if not self.num_removed:
            return frames
        numbers = np.arange(len(frames) + self.num_removed)
        sources = np.searchsorted(self.kept, numbers, side="right") - 1
        return frames[np.clip(sources, 0, len(frames) - 1)]


class PauseShortener:
    """Shortens the pauses of a recording that comes in chunks.

    A pause is a sequence of frames that are all at least 35 dB below a reference level: the level
    of the loudest frame so far, which decreases by 10 dB with each chunk.

    Args:
        frame_samples: length of a frame, without overlap.
        kept_frames: number of frames that are kept at each end of a pause.
    """

    def __init__(self, frame_samples: int, kept_frames: int):
        self._frame_samples, self._kept_frames = frame_samples, kept_frames
        self._loudest = 0.0  # mean square

    def shorten(self, sound: np.ndarray) -> Shortened:
        """Removes the middle of each long pause.

        Args:
            sound: `[S]`, next chunk of the recording.
        """
        size = self._frame_samples
        num_frames = len(sound) // size
        frames = sound[: num_frames * size].reshape(num_frames, size)
        offset = np.median(frames.mean(axis=1)) if num_frames else 0.0  # DC offset
        power = np.square(frames - offset).mean(axis=1)
        self._loudest = max(power.max(initial=0.0), self._loudest * 10 ** (-_FORGOTTEN_DB / 10))
        silent = power <= self._loudest * 10 ** (-_SILENCE_DB / 10)
        keep = ~_inner(silent, self._kept_frames)
        # Keep the samples after the last complete frame.
        samples = np.append(np.repeat(keep, size), np.ones(len(sound) - num_frames * size, bool))
        return Shortened(sound[samples], np.flatnonzero(keep), int((~keep).sum()))


def _inner(silent: np.ndarray, margin: int) -> np.ndarray:
    """Returns, as `[T]` bool, which frames have at least `margin` silent frames on both sides.

    Silence outside the chunk does not count.
    """
    inner = np.zeros(len(silent), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(int)))
    for start, end in edges.reshape(-1, 2):
        inner[start + margin : max(start + margin, end - margin)] = True
    return inner
