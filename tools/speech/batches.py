"""Decodes the rows of a training plan to waveforms with `tf.data`, in order."""

import os
from collections.abc import Sequence

import tensorflow as tf

from tools.speech.audio import AudioLimits
from tools.speech.corpus import Utterance
from tools.speech.graph_audio import utterance_dataset
from tools.speech.reading import MIN_PADDED_SAMPLES


class UtteranceDecoder:
    """Decodes the rows of a training plan to waveforms, several files in parallel, in order.

    Args:
        utterances: utterances to which the indices of the rows refer.
        limits: accepted lengths and rates, and the model's rate.
        parallel: number of parallel decoders; 0 lets TensorFlow choose.
    """

    def __init__(self, utterances: Sequence[Utterance], limits: AudioLimits, parallel: int):
        self.paths = tf.constant([os.fsencode(u.path) for u in utterances], tf.string)
        self.decoders = tf.constant([u.decoder for u in utterances], tf.string)
        self.limits = limits
        self.parallel = parallel or tf.data.AUTOTUNE
        self.cycle = parallel or 4

    def decode(self, rows: tf.data.Dataset) -> tf.data.Dataset:
        """Adds `waveform` `[S]` and `reason` to rows with an `index`; index -1 is a masked row."""

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
    """Pads `waveforms` of a batch to at least one frame, in case all of its rows were dropped."""
    missing = tf.maximum(MIN_PADDED_SAMPLES - tf.shape(batch["waveforms"])[1], 0)
    return {**batch, "waveforms": tf.pad(batch["waveforms"], [[0, 0], [0, missing]])}
