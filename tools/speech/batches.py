"""Utterances to padded batches of waveforms, in the order in which they are asked for."""

import os
from collections.abc import Sequence

import tensorflow as tf

from tools.speech.audio import AudioLimits, utterance_dataset
from tools.speech.config import DataConfig
from tools.speech.corpus import Utterance

_MIN_PADDED_SAMPLES = 400  # the window of every model here


def _limits(config: DataConfig, rate_hz: int, max_seconds: float) -> AudioLimits:
    return AudioLimits(rate_hz=rate_hz, min_seconds=config.min_seconds, max_seconds=max_seconds)


def training_limits(config: DataConfig, rate_hz: int) -> AudioLimits:
    """Which utterances a training set may hold."""
    return _limits(config, rate_hz, config.max_seconds)


def evaluation_limits(config: DataConfig, rate_hz: int) -> AudioLimits:
    """Which utterances an evaluation set may hold."""
    return _limits(config, rate_hz, config.max_eval_seconds)


class UtteranceDecoder:
    """Rows of a plan to waveforms, in order, several at once.

    Args:
        utterances: that the rows' indices are of.
        limits: of the set.
        parallel: decoders at once, 0 for a default.
    """

    def __init__(self, utterances: Sequence[Utterance], limits: AudioLimits, parallel: int):
        self.paths = tf.constant([os.fsencode(u.path) for u in utterances], tf.string)
        self.decoders = tf.constant([u.decoder for u in utterances], tf.string)
        self.limits = limits
        self.parallel = parallel or tf.data.AUTOTUNE
        self.cycle = parallel or 4

    def decode(self, rows: tf.data.Dataset) -> tf.data.Dataset:
        """Maps rows with an `index` (-1: masked) to rows with `waveform` and `reason` as well."""

        def fetch(row):
            index = tf.maximum(row["index"], 0)
            decoded = utterance_dataset(self.paths[index], self.decoders[index], self.limits)
            masked = tf.data.Dataset.from_tensors({"waveform": tf.zeros([0]), "reason": ""})
            is_real = tf.cast(row["index"] >= 0, tf.int64)
            one = decoded.take(is_real).concatenate(masked).take(1)
            return one.map(lambda sound: {**row, **sound})

        return rows.interleave(
            fetch,
            cycle_length=self.cycle,
            block_length=1,
            num_parallel_calls=self.parallel,
            deterministic=True,
        )


def pad_to_frame(batch):
    """Gives a batch of nothing but dropped rows the samples of one frame."""
    missing = tf.maximum(_MIN_PADDED_SAMPLES - tf.shape(batch["waveforms"])[1], 0)
    return {**batch, "waveforms": tf.pad(batch["waveforms"], [[0, 0], [0, missing]])}


def evaluation_dataset(
    utterances: Sequence[Utterance], batch_size: int, limits: AudioLimits, parallel: int = 0
) -> tf.data.Dataset:
    """Batches utterances in order, the last partial batch included.

    Args:
        utterances: best sorted by length.
        batch_size: rows of a batch, fewer in the last one.
        limits: of the set.
        parallel: decoders at once, 0 for a default.

    Returns:
        Batches of `waveforms [B,S]`, `lengths [B]`, `index [B]`, `reason [B]`.
    """
    rows = tf.data.Dataset.range(len(utterances)).map(lambda index: {"index": index})

    def measured(row):
        return {
            "waveforms": row["waveform"],
            "lengths": tf.size(row["waveform"]),
            "index": row["index"],
            "reason": row["reason"],
        }

    return (
        UtteranceDecoder(utterances, limits, parallel)
        .decode(rows)
        .map(measured)
        .padded_batch(batch_size)
        .map(pad_to_frame)
        .prefetch(2)
    )
