"""Recordings longer than a model takes at once: overlapping chunks, and their frames stitched.

It knows nothing of how frames are decoded. A frame is whatever a model makes of each step of the
sound: the logits of a CTC model, or the encoded frames that a transducer decodes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tools.errors import UserError
from tools.speech.pauses import PauseShortener
from tools.speech.reading import pad_waveforms

_PAUSE_SECONDS = 0.5  # that a longer pause is shortened to

# Waveforms [B, S] float32 and lengths [B] int32 to the valid frames of each, [T, D].
Frames = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]


class Chunk(NamedTuple):
    """A part of a recording, and which of its frames count.

    Attributes:
        start: its first sample.
        num_samples: how many it has.
        first: the first of its frames that counts, by its own numbering.
        last: the first one that no longer does; None: all to its end count.
    """

    start: int
    num_samples: int
    first: int
    last: int | None


@dataclass(frozen=True, slots=True)
class Window:
    """How a recording is cut.

    Each overlap is cut in its middle: a frame counts where its chunk holds the more of the sound
    around it.

    Attributes:
        chunk_samples: of a chunk; a multiple of `hop_samples`.
        overlap_samples: shared by one and the next; an even multiple of it.
        hop_samples: from one frame to the next.
        pause_frames: that stay of a long pause at each of its ends; None: pauses stay whole.
    """

    chunk_samples: int
    overlap_samples: int
    hop_samples: int
    pause_frames: int | None = None

    @classmethod
    def of_seconds(
        cls, chunk_seconds: float, overlap_seconds: float, hop_samples: int, rate_hz: int
    ) -> "Window":
        """Makes the window nearest to lengths in seconds.

        Raises:
            UserError: the overlap is more than half a chunk, or either is nothing.
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

    def chunks(self, num_samples: int) -> list[Chunk]:
        """Lists the chunks of a recording; the last one is shorter, never than an overlap."""
        step = self.chunk_samples - self.overlap_samples
        count = max(1, -(-(num_samples - self.overlap_samples) // step))
        cut = self.overlap_samples // 2 // self.hop_samples
        return [
            Chunk(
                start=number * step,
                num_samples=min(self.chunk_samples, num_samples - number * step),
                first=cut if number else 0,
                last=None if number == count - 1 else cut + step // self.hop_samples,
            )
            for number in range(count)
        ]


def cut(pieces: Iterable[np.ndarray], chunks: Iterable[Chunk]) -> Iterator[np.ndarray]:
    """Cuts a recording that comes in pieces into chunks; holds no more than one of each.

    Args:
        pieces: `[S]` each, of `audio.stream`.
        chunks: of `Window.chunks`, in their order.
    """
    source = iter(pieces)
    held, start = np.zeros(0, np.float32), 0  # and the sample that what is held begins with
    for chunk in chunks:
        held, start = held[chunk.start - start :], chunk.start
        parts, missing = [held], chunk.num_samples - len(held)
        while missing > 0 and (piece := next(source, None)) is not None:
            parts.append(piece)
            missing -= len(piece)
        held = np.concatenate(parts)
        yield held[: chunk.num_samples]
    for _ in source:
        pass


def stitched(
    pieces: Iterable[np.ndarray],
    num_samples: int,
    window: Window,
    frames: Frames,
    *,
    batch_size: int = 1,
) -> Iterator[np.ndarray]:
    """Runs a model over a recording.

    Args:
        pieces: the recording, `[S]` each.
        num_samples: of all of them.
        window: how to cut it.
        frames: the model.
        batch_size: chunks run together.

    Yields:
        `[T, D]` frames that follow one another, as many as the model has for a sound of that
        length.
    """
    chunks = window.chunks(num_samples)
    pauses = None
    if window.pause_frames is not None:
        pauses = PauseShortener(window.hop_samples, window.pause_frames)
    sounds = cut(pieces, chunks)
    for number in range(0, len(chunks), batch_size):
        batch = chunks[number : number + batch_size]
        heard = [next(sounds) for _ in batch]
        if pauses is not None:
            shortened = [pauses.shorten(sound) for sound in heard]
            heard = [one.sound for one in shortened]
        found = frames(*pad_waveforms(heard))
        if pauses is not None:
            found = [one.restored(rows) for one, rows in zip(shortened, found, strict=True)]
        for chunk, rows in zip(batch, found, strict=True):
            yield rows[chunk.first : chunk.last]
    for _ in sounds:  # to the end of the pieces, where their reader may find something missing
        pass
