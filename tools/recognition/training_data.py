"""The training batches of a recognizer: the data plan, decoding, padding and labels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tools.speech.augmentation import WaveformAugmentation
from tools.speech.batches import UtteranceDecoder, pad_to_frame
from tools.speech.bucketing import Segment, epoch_plan, rank_rows
from tools.speech.config import DataConfig
from tools.speech.corpus import Utterance
from tools.speech.reading import training_limits
from tools.training.data import Epochs, row_names
from tools.training.task import Position, Shard, TrainData

# The numbers of an utterance that `WaveformAugmentation` gets.
_NUM_CHANGES = 3

Encode = Callable[[tf.Tensor], tf.RaggedTensor]
Prepare = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What a recognizer trains on.

    Attributes:
        utterances: the whole set, the same on every process.
        encode: transcripts `[B]` to labels `[B, (U)]`, in the graph.
        prepare: a waveform `[S]` and two integers that seed its random numbers, to the waveform
            `[S']` to train with, the `[N]` uniform numbers in `[0, 1)` that the model gets, and
            whether the words of the transcript are in the waveform.
    """

    utterances: Sequence[Utterance]
    encode: Encode
    prepare: Prepare


def prepare(
    waveform: tf.Tensor, seed: tf.Tensor, augment: WaveformAugmentation, num_uniforms: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Changes a waveform as configured, and draws the numbers that its model gets.

    Args:
        waveform: `[S]` float32.
        seed: `[2]` integers.
        augment: the changes.
        num_uniforms: N.

    Returns:
        See `TrainingSet.prepare`.
    """
    uniforms = tf.random.stateless_uniform([_NUM_CHANGES + num_uniforms], seed)
    waveform, has_words = augment(waveform, uniforms[:_NUM_CHANGES], seed)
    return waveform, uniforms[_NUM_CHANGES:], has_words


# No function of the pipeline branches in Python on a tensor, and AutoGraph would take seconds.
@tf.autograph.experimental.do_not_convert
def training_data(
    training_set: TrainingSet,
    data: DataConfig,
    *,
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
        training_set: utterances, and what becomes of them.
        data: sizes and limits.
        rate_hz: sample rate of the model.
        seed: of the run.
        shard: this process's part.
        position: where to begin.
        num_epochs: where to end.

    Returns:
        Batches of `waveforms [B,S]`, `lengths [B]`, `labels [B,U]`, `label_lengths [B]`,
        `uniforms [B,N]`, `index [B]` (-1: masked row) and `reason [B]` (why dropped).
    """
    utterances = training_set.utterances
    num_samples = np.array([u.num_samples for u in utterances], np.int64)

    def make_plan(epoch: int, done) -> list[np.ndarray]:
        return epoch_plan(
            num_samples,
            seed=seed,
            epoch=epoch,
            global_batch_size=shard.global_batch_size,
            num_buckets=data.num_buckets,
            done=[Segment(*segment) for segment in done],
        )

    epochs = Epochs(make_plan, position, num_epochs, seed)

    def rows() -> Iterator[dict]:
        for epoch, plan in epochs:
            epoch_seed = epochs.random_seed(epoch)
            for batch in plan:
                for index in rank_rows(
                    batch, rank=shard.rank, size=shard.size, rows_per_rank=shard.batch_size
                ):
                    yield {"index": int(index), "epoch_seed": epoch_seed}

    signature = {
        "index": tf.TensorSpec([], tf.int64),
        "epoch_seed": tf.TensorSpec([], tf.int64),
    }
    transcripts = tf.constant([u.transcript for u in utterances])

    def prepared(row):
        random_seed = tf.stack([row["epoch_seed"], row["index"]])
        waveform, uniforms, has_words = training_set.prepare(row["waveform"], random_seed)
        return {
            "waveforms": waveform,
            "lengths": tf.size(waveform),
            "index": row["index"],
            "reason": row["reason"],
            "uniforms": uniforms,
            "has_words": has_words,
        }

    def labelled(batch):
        heard = (batch["lengths"] > 0) & batch.pop("has_words")
        texts = tf.where(heard, tf.gather(transcripts, tf.maximum(batch["index"], 0)), "")
        labels = training_set.encode(texts)
        lengths = tf.where(heard, tf.cast(labels.row_lengths(), tf.int32), 0)
        return {**batch, "labels": labels.to_tensor(), "label_lengths": lengths}

    limits = training_limits(data, rate_hz)
    decoder = UtteranceDecoder(utterances, limits, data.num_parallel_calls)
    dataset = (
        decoder.decode(tf.data.Dataset.from_generator(rows, output_signature=signature))
        .map(prepared, num_parallel_calls=decoder.parallel)
        .padded_batch(shard.batch_size, drop_remainder=True)
        .map(lambda batch: labelled(pad_to_frame(batch)), num_parallel_calls=1)
        .prefetch(4)
    )
    names = row_names("index", [u.path for u in utterances], [u.utterance_id for u in utterances])
    return epochs.train_data(dataset, names)
