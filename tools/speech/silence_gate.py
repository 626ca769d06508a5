"""Voice activity gate by energy: leaves long silences out of a recording that comes in pieces."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

_FRAME_SECONDS = 0.02
_MARGIN_SECONDS = 0.24  # kept at each end of a silence
_SILENCE_DB = 35  # below the reference level
_REFERENCE_FRAMES = 25  # so many frames so far have at least the reference level: 0.5 s
_LOWEST_DB, _HIGHEST_DB = -120, 40


class SilenceGate:
    """Leaves silences of a given length out, except for 0.24 s at each end.

    A frame of 20 ms is silent if all its samples are equal, or if its level is 35 dB below the
    level that half a second of the recording so far reaches. A short bang therefore does not turn
    quiet speech into silence.

    Args:
        rate_hz: sampling rate.
        least_seconds: shortest silence that is left out.

    Attributes:
        skipped: start and end in seconds of each part that was left out.
    """

    def __init__(self, rate_hz: int, least_seconds: float):
        self._size, self._rate_hz = round(_FRAME_SECONDS * rate_hz), rate_hz
        self._margin = round(_MARGIN_SECONDS / _FRAME_SECONDS)
        self._least = max(2 * self._margin + 1, round(least_seconds / _FRAME_SECONDS))
        self._levels = np.zeros(_HIGHEST_DB - _LOWEST_DB + 1, np.int64)  # frames of each level
        self.skipped: list[tuple[float, float]] = []

    def passed(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the samples that are left.

        Args:
            pieces: `[S]` arrays.
        """
        rest = np.zeros(0, np.float32)
        waiting, silent_frames, place = [], 0, 0  # frames of the current silence
        for piece in pieces:
            sound = np.concatenate([rest, piece])
            num_frames = len(sound) // self._size
            frames = sound[: num_frames * self._size].reshape(num_frames, self._size)
            rest = sound[num_frames * self._size :]
            silent = self._silent(frames)
            edges = np.flatnonzero(np.diff(silent, prepend=not silent[:1].any(), append=True))
            edges = [*edges[edges < num_frames].tolist(), num_frames]
            for start, end in itertools.pairwise(edges):
                part = frames[start:end]
                if silent[start]:
                    waiting.append(part)
                    silent_frames += len(part)
                    waiting = self._shortened(waiting, silent_frames)
                else:
                    yield from self._ended(waiting, silent_frames, place + start)
                    waiting, silent_frames = [], 0
                    yield part.reshape(-1)
            place += num_frames
        yield from self._ended(waiting, silent_frames, place)
        if len(rest):
            yield rest

    def original_seconds(self, seconds: float) -> float:
        """Returns the time in the recording of a time in the samples that are left."""
        for start, end in self.skipped:
            if seconds <= start:
                break
            seconds += end - start
        return seconds

    def _silent(self, frames: np.ndarray) -> np.ndarray:
        """Returns, as `[T]` bool, which frames `[T, S]` are silent."""
        offset = np.median(frames.mean(axis=1)) if len(frames) else 0.0
        power = np.square(frames - offset).mean(axis=1)
        levels = 10 * np.log10(power + 10.0 ** (_LOWEST_DB / 10))
        numbers = np.clip(np.rint(levels) - _LOWEST_DB, 0, len(self._levels) - 1).astype(int)
        self._levels += np.bincount(numbers, minlength=len(self._levels))
        reached = np.flatnonzero(np.cumsum(self._levels[::-1])[::-1] >= _REFERENCE_FRAMES)
        reference = reached[-1] if len(reached) else 0
        return (numbers < reference - _SILENCE_DB) | (np.ptp(frames, axis=1) == 0)

    def _shortened(self, waiting: list[np.ndarray], num_frames: int) -> list[np.ndarray]:
        """Returns the frames of a silence that may still be used."""
        if num_frames < self._least:
            return waiting
        frames = np.concatenate(waiting)
        if len(frames) <= 2 * self._margin:
            return [frames]
        return [frames[: self._margin], frames[-self._margin :]]

    def _ended(self, waiting: list[np.ndarray], num_frames: int, end: int) -> Iterator[np.ndarray]:
        """Yields the frames that are left of a silence, and notes what is left out.

        Args:
            waiting: frames of the silence.
            num_frames: length of the silence.
            end: frame of the recording at which the silence ends.
        """
        if num_frames >= self._least:
            first, last = end - num_frames + self._margin, end - self._margin
            seconds = self._size / self._rate_hz
            self.skipped.append((first * seconds, last * seconds))
        yield from (part.reshape(-1) for part in waiting)
