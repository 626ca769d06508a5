"""Long recordings: divides them into overlapping chunks and joins the frames of the chunks.

This module does not decode. A frame is the model's output for one time step: the logits of a CTC
model, or the encoder output of a transducer.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from tools.errors import UserError
from tools.speech.pauses import PauseShortener
from tools.speech.reading import pad_waveforms

_PAUSE_SECONDS = 0.5  # longer pauses are shortened to this length
_QUIET = 0.01  # share of the mean power of a chunk's overlap below which it is cut there
_SMOOTHED_FRAMES = 5

# Model: waveforms `[B, S]` float32 and lengths `[B]` int32 to the valid frames of each, `[T, D]`. A
# sound without frames is silent.
Frames = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]


class Chunk(NamedTuple):
    """A chunk of a recording.

    Attributes:
        sound: `[S]` samples.
        is_last: whether the recording ends with this chunk.
    """

    sound: np.ndarray
    is_last: bool


class Stretch(NamedTuple):
    """Consecutive frames of a recording.

    Attributes:
        frames: `[T, D]`; none if this part of the recording is silent.
        num_frames: number of frames of this part, which is larger than T only for silence.
    """

    frames: np.ndarray
    num_frames: int


@dataclass(frozen=True, slots=True)
class Window:
    """How a recording is divided into chunks.

    The frames of an overlap are taken from the earlier chunk up to a cut and then from the later
    one. The cut is at the quietest place of the middle half of the overlap if it is silent there,
    else in the middle.

    Attributes:
        chunk_samples: length of a chunk, a multiple of `hop_samples`.
        overlap_samples: overlap of neighboring chunks, an even multiple of `hop_samples`.
        hop_samples: distance between frames.
        pause_frames: number of frames that are kept at each end of a long pause; None does not
            shorten pauses.
    """

    chunk_samples: int
    overlap_samples: int
    hop_samples: int
    pause_frames: int | None = None

    @classmethod
    def of_seconds(
        cls, chunk_seconds: float, overlap_seconds: float, hop_samples: int, rate_hz: int
    ) -> "Window":
        """Returns the window closest to lengths in seconds.

        Args:
            chunk_seconds: length of a chunk.
            overlap_seconds: overlap of neighboring chunks, at most half a chunk.
            hop_samples: distance between frames in samples.
            rate_hz: sampling rate.

        Raises:
            UserError: the overlap is more than half a chunk, or one of them is 0.
        """
        overlap = chunk = 0
        if math.isfinite(overlap_seconds) and math.isfinite(chunk_seconds):
            overlap = 2 * round(overlap_seconds * rate_hz / (2 * hop_samples)) * hop_samples
            chunk = round(chunk_seconds * rate_hz / hop_samples) * hop_samples
        if not 0 < 2 * overlap <= chunk:
            raise UserError.expected(
                "--overlap_seconds above 0 and up to half of --chunk_seconds",
                f"{overlap_seconds:g} and {chunk_seconds:g}",
                "Correct the flags",
            )
        return cls(chunk, overlap, hop_samples, round(_PAUSE_SECONDS / 2 * rate_hz / hop_samples))

    def cut_frame(self, sound: np.ndarray) -> int:
        """Returns the frame of the overlap at which the next chunk takes over.

        Args:
            sound: `[overlap_samples]`, the last samples of a chunk.
        """
        frames = sound.reshape(-1, self.hop_samples)
        power = np.square(frames - frames.mean()).mean(axis=1)
        size = min(_SMOOTHED_FRAMES, len(power))
        smooth = np.convolve(power, np.full(size, 1 / size), "same")
        middle, margin = len(power) // 2, max(1, len(power) // 4)
        inner = np.arange(margin, len(power) - margin + 1)
        quietest = min(inner.tolist(), key=lambda frame: (smooth[frame], abs(frame - middle)))
        return quietest if smooth[quietest] <= _QUIET * power.mean() else middle


def cut(pieces: Iterable[np.ndarray], window: Window) -> Iterator[Chunk]:
    """Divides a recording that comes in pieces into chunks; keeps one chunk and piece in memory.

    Args:
        pieces: `[S]` arrays, for example from `audio.stream`.
        window: how to divide the recording.

    Yields:
        The chunks. The last one may be shorter than the others. If there are several, each is
        longer than an overlap. A recording without samples has none.
    """
    step = window.chunk_samples - window.overlap_samples
    held = np.zeros(0, np.float32)
    for piece in pieces:
        held = np.concatenate([held, piece]) if len(held) else piece
        while len(held) > window.chunk_samples:
            yield Chunk(held[: window.chunk_samples], is_last=False)
            held = held[step:]
    if len(held):
        yield Chunk(held, is_last=True)


def stitched(
    pieces: Iterable[np.ndarray], window: Window, frames: Frames, *, batch_size: int = 1
) -> Iterator[Stretch]:
    """Runs a model over a long recording, chunk by chunk.

    Args:
        pieces: the recording as `[S]` arrays.
        window: how to divide it.
        frames: the model.
        batch_size: number of chunks in a batch.

    Yields:
        Consecutive frames. Their total number is that of the model for the whole recording, except
        for silence at its end.
    """
    overlap, hop = window.overlap_samples, window.hop_samples
    pauses = None
    if window.pause_frames is not None:
        pauses = PauseShortener(hop, window.pause_frames)
    chunks, first = cut(pieces, window), 0
    while batch := list(islice(chunks, batch_size)):
        heard = [chunk.sound for chunk in batch]
        if pauses is not None:
            shortened = [pauses.shorten(sound) for sound in heard]
            heard = [one.sound for one in shortened]
        found = frames(*pad_waveforms(heard))
        if pauses is not None:
            found = [
                one.restored(rows) if len(rows) else rows
                for one, rows in zip(shortened, found, strict=True)
            ]
        for chunk, rows in zip(batch, found, strict=True):
            if chunk.is_last:
                yield Stretch(rows[first:], len(rows[first:]))
                break
            place = window.cut_frame(chunk.sound[-overlap:])
            last = (window.chunk_samples - overlap) // hop + place
            yield Stretch(rows[first:last], last - first)
            first = place
