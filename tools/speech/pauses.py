"""Shortens long pauses before a model hears them, and gives back frames of the full length.

A model that normalizes each sound by its own mean and variance turns the words up when a part of
the sound is silent, and noise alone up to the level of words. Without long pauses a chunk of a
recording is normalized as the utterances that the model was trained on.
"""

from typing import NamedTuple

import numpy as np

_SILENCE_DB = 35.0  # below the loudest frame; a frame below it holds no word
_FORGOTTEN_DB = 10.0  # of the loudest frame so far, with each chunk


class Shortened(NamedTuple):
    """A sound without its long pauses.

    Attributes:
        sound: `[S]`.
        kept: `[N]` numbers of the frames of the original that `sound` consists of.
        num_removed: frames of the original that it lacks.
    """

    sound: np.ndarray
    kept: np.ndarray
    num_removed: int

    def restored(self, frames: np.ndarray) -> np.ndarray:
        """Repeats the frames of pauses.

        Args:
            frames: `[T, D]` that the model made of `sound`.

        Returns:
            `[T + num_removed, D]`.
        """
        if not self.num_removed:
            return frames
        numbers = np.arange(len(frames) + self.num_removed)
        sources = np.searchsorted(self.kept, numbers, side="right") - 1
        return frames[np.clip(sources, 0, len(frames) - 1)]


class PauseShortener:
    """Shortens the pauses of a recording that comes in chunks.

    A pause is a run of frames that are all 35 dB below the loudest frame of the chunk, or below the
    loudest one of earlier chunks, of which 10 dB are forgotten with each chunk.

    Args:
        frame_samples: of a frame, from its start to the start of the next.
        kept_frames: that stay of a pause at each of its ends.
    """

    def __init__(self, frame_samples: int, kept_frames: int):
        self._frame_samples, self._kept_frames = frame_samples, kept_frames
        self._loudest = 0.0  # mean square

    def shorten(self, sound: np.ndarray) -> Shortened:
        """Removes the middle of each long pause.

        Args:
            sound: `[S]`, a chunk that follows the one before.
        """
        size = self._frame_samples
        num_frames = len(sound) // size
        frames = sound[: num_frames * size].reshape(num_frames, size)
        offset = np.median(frames.mean(axis=1)) if num_frames else 0.0  # an offset is no sound
        power = np.square(frames - offset).mean(axis=1)
        self._loudest = max(power.max(initial=0.0), self._loudest * 10 ** (-_FORGOTTEN_DB / 10))
        silent = power <= self._loudest * 10 ** (-_SILENCE_DB / 10)
        keep = ~_inner(silent, self._kept_frames)
        # What is left behind the last whole frame belongs to it.
        samples = np.append(np.repeat(keep, size), np.ones(len(sound) - num_frames * size, bool))
        return Shortened(sound[samples], np.flatnonzero(keep), int((~keep).sum()))


def _inner(silent: np.ndarray, margin: int) -> np.ndarray:
    """Tells which frames have at least `margin` silent frames on both sides.

    At the edges of a chunk the pause goes on beyond it only as far as it is heard here.
    """
    inner = np.zeros(len(silent), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(int)))
    for start, end in edges.reshape(-1, 2):
        inner[start + margin : max(start + margin, end - margin)] = True
    return inner
