"""Reads utterances into padded batches of waveforms with threads, without TensorFlow."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from tools.speech.audio import AudioError, AudioLimits, read
from tools.speech.config import DataConfig
from tools.speech.corpus import Utterance
from tools.threads import in_threads

MIN_PADDED_SAMPLES = 400  # at least one frame for every model of the project
_BATCHES_AHEAD = 2


class Batch(NamedTuple):
    """A batch of utterances.

    Attributes:
        indices: `[B]` indices of the utterances.
        waveforms: `[B, S]` float32, padded with zeros.
        lengths: `[B]` int32 samples; 0 for a file that cannot be used.
        reasons: `[B]` keys of `audio.REASONS` for files that cannot be used; empty for the others.
    """

    indices: list[int]
    waveforms: np.ndarray
    lengths: np.ndarray
    reasons: list[str]

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """Inputs of a recognizer: `waveforms` and `lengths`."""
        return {"waveforms": self.waveforms, "lengths": self.lengths}


def training_limits(config: DataConfig, rate_hz: int) -> AudioLimits:
    """Returns the limits for training utterances."""
    return AudioLimits(rate_hz, config.min_seconds, config.max_seconds)


def evaluation_limits(config: DataConfig, rate_hz: int) -> AudioLimits:
    """Returns the limits for evaluation utterances."""
    return AudioLimits(rate_hz, config.min_seconds, config.max_eval_seconds)


def pad_waveforms(waveforms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Joins waveforms to a padded batch.

    Args:
        waveforms: `[S]` float32 arrays.

    Returns:
        `[B, S]` float32, padded with zeros, and `[B]` int32 lengths in samples.
    """
    lengths = np.array([len(waveform) for waveform in waveforms], np.int32)
    padded = np.zeros((len(waveforms), max(MIN_PADDED_SAMPLES, lengths.max())), np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return padded, lengths


def read_batches(
    utterances: Sequence[Utterance], batch_size: int, limits: AudioLimits, num_threads: int = 0
) -> Iterator[Batch]:
    """Yields batches of utterances in order; threads decode the next batches in advance.

    Args:
        utterances: utterances; sort them by length to reduce padding.
        batch_size: rows in a batch; the last batch may have fewer.
        limits: accepted lengths and rates, and the model's rate.
        num_threads: number of decoding threads; 0 for one per core.
    """

    def decode(utterance: Utterance) -> tuple[np.ndarray, str]:
        try:
            return read(utterance.path, limits, channel=utterance.channel), ""
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
