"""Utterances to padded batches of waveforms without TensorFlow, decoded by several threads."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from tools.speech.audio import AudioError, AudioLimits, read
from tools.speech.config import DataConfig
from tools.speech.corpus import Utterance
from tools.threads import in_threads

MIN_PADDED_SAMPLES = 400  # one frame of every model here
_BATCHES_AHEAD = 2


class Batch(NamedTuple):
    """A batch of utterances.

    Attributes:
        indices: `[B]`, which of the utterances.
        waveforms: `[B, S]` float32 with zeros behind each sound.
        lengths: `[B]` int32 samples; 0 for a file that cannot be used.
        reasons: `[B]`, why it cannot, a key of `audio.REASONS`, else empty.
    """

    indices: list[int]
    waveforms: np.ndarray
    lengths: np.ndarray
    reasons: list[str]

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What a recognizer takes of it."""
        return {"waveforms": self.waveforms, "lengths": self.lengths}


def training_limits(config: DataConfig, rate_hz: int) -> AudioLimits:
    """Gives the limits of the utterances of a training set."""
    return AudioLimits(rate_hz, config.min_seconds, config.max_seconds)


def evaluation_limits(config: DataConfig, rate_hz: int) -> AudioLimits:
    """Gives the limits of the utterances of an evaluation set."""
    return AudioLimits(rate_hz, config.min_seconds, config.max_eval_seconds)


def pad_waveforms(waveforms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Puts waveforms together.

    Args:
        waveforms: `[S]` float32 each.

    Returns:
        `[B, S]` float32 with zeros behind each, and `[B]` int32 samples.
    """
    lengths = np.array([len(waveform) for waveform in waveforms], np.int32)
    padded = np.zeros((len(waveforms), max(MIN_PADDED_SAMPLES, lengths.max())), np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return padded, lengths


def read_batches(
    utterances: Sequence[Utterance], batch_size: int, limits: AudioLimits, num_threads: int = 0
) -> Iterator[Batch]:
    """Reads utterances in order; threads decode the next batches while one is used.

    Args:
        utterances: best sorted by length.
        batch_size: rows of a batch, fewer in the last one.
        limits: of the set.
        num_threads: decoders at once; 0: one for each core.
    """

    def decode(utterance: Utterance) -> tuple[np.ndarray, str]:
        try:
            return read(utterance.path, limits), ""
        except AudioError as error:
            return np.zeros(0, np.float32), error.reason

    ahead = _BATCHES_AHEAD * batch_size
    decoded = in_threads(decode, utterances, ahead=ahead, num_threads=num_threads)
    with contextlib.closing(decoded):
        for start in range(0, len(utterances), batch_size):
            sounds, reasons = zip(*islice(decoded, batch_size), strict=True)
            waveforms, lengths = pad_waveforms(sounds)
            indices = list(range(start, start + len(sounds)))
            yield Batch(indices, waveforms, lengths, list(reasons))
