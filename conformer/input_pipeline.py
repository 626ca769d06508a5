"""Utterances to batches: the data plan, decoding, waveform augmentation, padding and labels."""

import functools
import logging
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from conformer.config import DataConfig, WaveformAugmentConfig
from tools.speech.audio import AudioLimits
from tools.speech.batches import UtteranceDecoder, pad_to_frame
from tools.speech.bucketing import Segment, epoch_plan, rank_rows
from tools.speech.corpus import Utterance
from tools.training.task import Position, Shard, TrainData

logger = logging.getLogger(__name__)


def _limits(config: DataConfig, rate_hz: int, max_seconds: float) -> AudioLimits:
    return AudioLimits(rate_hz=rate_hz, min_seconds=config.min_seconds, max_seconds=max_seconds)


def training_limits(config: DataConfig, rate_hz: int) -> AudioLimits:
    """Which utterances a training set may hold."""
    return _limits(config, rate_hz, config.max_seconds)


def evaluation_limits(config: DataConfig, rate_hz: int) -> AudioLimits:
    """Which utterances an evaluation set may hold."""
    return _limits(config, rate_hz, config.max_eval_seconds)


def augment_waveform(waveform, uniforms, noise_seed, config: WaveformAugmentConfig):
    """Changes speed (and pitch with it) by linear interpolation and adds white noise.

    Args:
        waveform: `[S]` float32.
        uniforms: `[3]` in `[0, 1)`: speed, whether there is noise, how much.
        noise_seed: `[2]` integers.
        config: ranges.

    Returns:
        `[S / speed]` float32.

    Source: Ko et al., Audio augmentation for speech recognition (2015), for the speeds.
    """
    if config.max_speed_change > 0 and tf.size(waveform) > 0:
        speed = 1.0 + config.max_speed_change * (2.0 * uniforms[0] - 1.0)
        last = tf.size(waveform) - 1
        count = tf.cast(tf.cast(last, tf.float32) / speed, tf.int32) + 1
        position = tf.cast(tf.range(count), tf.float32) * speed
        left = tf.minimum(tf.cast(position, tf.int32), last)
        share = position - tf.cast(left, tf.float32)
        right = tf.gather(waveform, tf.minimum(left + 1, last))
        waveform = (1.0 - share) * tf.gather(waveform, left) + share * right
    if config.noise_probability > 0:
        snr_db = config.min_noise_snr_db + uniforms[2] * (
            config.max_noise_snr_db - config.min_noise_snr_db
        )
        power = tf.math.divide_no_nan(
            tf.reduce_sum(tf.square(waveform)), tf.cast(tf.size(waveform), tf.float32)
        )
        level = tf.sqrt(power) * tf.pow(10.0, -snr_db / 20.0)
        noise = tf.random.stateless_normal(tf.shape(waveform), noise_seed)
        waveform += tf.where(uniforms[1] < config.noise_probability, level, 0.0) * noise
    return waveform


def train_data(
    utterances: Sequence[Utterance],
    tokenizer,
    data: DataConfig,
    augment: WaveformAugmentConfig,
    num_uniforms: int,
    rate_hz: int,
    seed: int,
    shard: Shard,
    position: Position,
    num_epochs: int,
) -> TrainData:
    """Makes one process's batches from a position to the end of the last epoch.

    Every random number belongs to (seed, epoch, utterance), so it is the same on any number of
    processes and after any interruption.

    Args:
        utterances: the whole training set, the same on every process.
        tokenizer: encodes transcripts in the graph.
        data: sizes and limits.
        augment: ranges of the waveform augmentation.
        num_uniforms: random numbers an utterance gets for SpecAugment.
        rate_hz: sample rate of the model.
        seed: of the run.
        shard: this process's part.
        position: where to begin.
        num_epochs: where to end.

    Returns:
        Batches of `waveforms [B,S]`, `lengths [B]`, `labels [B,U]`, `label_lengths [B]`,
        `uniforms [B,num_uniforms]`, `index [B]` (-1: masked row) and `reason [B]` (why dropped).
    """
    num_samples = np.array([u.num_samples for u in utterances], np.int64)

    # Pre-fetching reaches into the next epoch while the loop is still in this one: two plans.
    @functools.lru_cache(maxsize=2)
    def plan(epoch: int) -> list[np.ndarray]:
        return epoch_plan(
            num_samples,
            seed=seed,
            epoch=epoch,
            global_batch_size=shard.global_batch_size,
            num_buckets=data.num_buckets,
            done=[Segment(*s) for s in position.done] if epoch == position.epoch else (),
        )

    def rows() -> Iterator[dict]:
        for epoch in range(position.epoch, num_epochs):
            epoch_seed = zlib.crc32(f"{seed}/{epoch}".encode())
            for batch in plan(epoch):
                for index in rank_rows(
                    batch, rank=shard.rank, size=shard.size, rows_per_rank=shard.batch_size
                ):
                    yield {"index": int(index), "epoch_seed": epoch_seed}

    signature = {
        "index": tf.TensorSpec([], tf.int64),
        "epoch_seed": tf.TensorSpec([], tf.int64),
    }
    transcripts = tf.constant([u.transcript for u in utterances])

    def augmented(row):
        uniforms = tf.random.stateless_uniform(
            [3 + num_uniforms], tf.stack([row["epoch_seed"], row["index"]])
        )
        noise_seed = tf.stack([row["epoch_seed"] + 1, row["index"]])
        waveform = augment_waveform(row["waveform"], uniforms[:3], noise_seed, augment)
        return {
            "waveforms": waveform,
            "lengths": tf.size(waveform),
            "index": row["index"],
            "reason": row["reason"],
            "uniforms": uniforms[3:],
        }

    def labelled(batch):
        heard = batch["lengths"] > 0
        texts = tf.where(heard, tf.gather(transcripts, tf.maximum(batch["index"], 0)), "")
        labels = tokenizer.encode_in_graph(texts)
        lengths = tf.where(heard, tf.cast(labels.row_lengths(), tf.int32), 0)
        return {**batch, "labels": labels.to_tensor(), "label_lengths": lengths}

    limits = training_limits(data, rate_hz)
    decoder = UtteranceDecoder(utterances, limits, data.num_parallel_calls)
    dataset = (
        decoder.decode(tf.data.Dataset.from_generator(rows, output_signature=signature))
        .map(augmented, num_parallel_calls=decoder.parallel)
        .padded_batch(shard.batch_size, drop_remainder=True)
        .map(lambda batch: labelled(pad_to_frame(batch)), num_parallel_calls=1)
        .prefetch(4)
    )
    warned = set()

    def names(batch) -> list[str]:
        indices = batch["index"].numpy()
        for index, reason in zip(indices, batch["reason"].numpy(), strict=True):
            if reason and index not in warned:
                warned.add(index)
                logger.warning("dropped %s: %s", utterances[index].path, reason.decode())
        return [utterances[i].utterance_id if i >= 0 else "masked" for i in indices]

    later_epochs = num_epochs - position.epoch - 1
    remaining = len(plan(position.epoch)) if later_epochs >= 0 else 0
    if later_epochs > 0:
        remaining += later_epochs * len(plan(position.epoch + 1))
    return TrainData(dataset, lambda epoch: len(plan(epoch)), remaining, names)
