"""Long recordings: divides them into overlapping chunks and joins the frames of the chunks.

This module does not decode. A frame is the model's output for one time step: the logits of a CTC
model, or the encoder output of a transducer.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tools.errors import UserError
from tools.speech.pauses import PauseShortener
from tools.speech.reading import pad_waveforms

_PAUSE_SECONDS = 0.5  # longer pauses are shortened to this length

# Model: waveforms `[B, S]` float32 and lengths `[B]` int32 to the valid frames of each, `[T, D]`.
Frames = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]


class Chunk(NamedTuple):
    """A chunk of a recording, and the range of its frames that are used.

    Attributes:
        start: first sample of the chunk in the recording.
        num_samples: length of the chunk.
        first: first frame that is used, counted from the start of the chunk.
        last: frame after the last one that is used; None uses all frames to the end.
    """

    start: int
    num_samples: int
    first: int
    last: int | None


@dataclass(frozen=True, slots=True)
class Window:
    """How a recording is divided into chunks.

    The frames of an overlap are taken from the earlier chunk up to its middle and then from the
    later one, so every frame comes from the chunk with more context around it.

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

    def chunks(self, num_samples: int) -> list[Chunk]:
        """Returns the chunks of a recording. The last one may be shorter than the others.

        If there are several chunks, each is longer than an overlap.
        """
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
    """Divides a recording that comes in pieces into chunks; keeps one chunk and piece in memory.

    Args:
        pieces: `[S]` arrays, for example from `audio.stream`.
        chunks: result of `Window.chunks`.

    Yields:
        `[S]` samples of each chunk.
    """
    source = iter(pieces)
    held, start = np.zeros(0, np.float32), 0  # samples in memory, and the first one's position
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
    """Runs a model over a long recording, chunk by chunk.

    Args:
        pieces: the recording as `[S]` arrays.
        num_samples: length of the recording.
        window: how to divide it.
        frames: the model.
        batch_size: number of chunks in a batch.

    Yields:
        `[T, D]` consecutive frames. Their total number is that of the model for the whole
        recording.
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
    for _ in sounds:  # read to the end, where the reader may report missing samples
        pass
