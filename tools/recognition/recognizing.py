"""Recognizes batches with word times, and long recordings, with any decoder."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tools.decoding.protocol import Call
from tools.recognition.decoders import Decoder, Inputs, Transcription
from tools.recognition.word_times import FrameTimes
from tools.speech.audio import AudioError
from tools.speech.long_audio import Window, stitched


def with_words(call: Call, decoder: Decoder, inputs: Inputs, times: FrameTimes):
    """Returns the transcriptions of a batch, with words and their times.

    Args:
        call: function that runs a signature of the model.
        decoder: decoder of the model.
        inputs: `waveforms` `[B, S]` float32 and `lengths` `[B]` int32.
        times: times of the frames.

    Raises:
        UserError: a score is not finite.
    """
    frames, lengths = decoder.frames(call, inputs)
    searches = decoder.searches(call)
    states = [search.advance(search.start(len(frames)), frames, lengths) for search in searches]
    return decoder.written(searches, states, times)


def of_long(
    call: Call,
    decoder: Decoder,
    pieces: Iterable[np.ndarray],
    *,
    window: Window,
    batch_size: int,
    times: FrameTimes,
    has_words: bool = False,
    partial: Callable[[str], None] | None = None,
) -> Transcription:
    """Recognizes a long recording chunk by chunk; keeps only tokens and beams in memory.

    Args:
        call: function that runs a signature of the model.
        decoder: decoder of the model.
        pieces: the recording as `[S]` float32 arrays.
        window: how the recording is divided into chunks.
        batch_size: number of chunks in a batch.
        times: times of the frames; the frames of the recording are counted there.
        has_words: whether to return words with their times.
        partial: called with the text of greedy search so far after each batch of chunks.

    Raises:
        UserError: a score is not finite.
    """

    def frames(waveforms: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        rows, counts = decoder.frames(call, {"waveforms": waveforms, "lengths": lengths})
        return [row[:count] for row, count in zip(rows, counts, strict=True)]

    searches = decoder.searches(call)
    states = [search.start(1) for search in searches]
    for stretch in stitched(pieces, window, frames, batch_size=batch_size):
        length = len(stretch.frames)
        times.add(length, stretch.num_frames)
        if length:
            for number, search in enumerate(searches):
                states[number] = search.advance(
                    states[number], stretch.frames[None], np.array([length])
                )
        if partial is not None:
            partial(decoder.written(searches[:1], states[:1])[0].text)
    return decoder.written(searches, states, times if has_words else None)[0]


class Readable:
    """The part of a recording before the place where it is damaged.

    Args:
        pieces: the recording as `[S]` float32 arrays.

    Attributes:
        damage: None, or a key of `AudioError.reason` once the damage was reached.
        num_samples: number of samples so far.
    """

    def __init__(self, pieces: Iterable[np.ndarray]):
        self._pieces = pieces
        self.damage: str | None = None
        self.num_samples = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the pieces.

        Raises:
            AudioError: not a single piece can be read.
        """
        try:
            for piece in self._pieces:
                self.num_samples += len(piece)
                yield piece
        except AudioError as error:
            if not self.num_samples:
                raise
            self.damage = error.reason
