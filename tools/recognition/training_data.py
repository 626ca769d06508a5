"""Training batches of a recognizer: batch planning, decoding, augmentation, padding, labels."""

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

# Number of random numbers per utterance that are passed to `WaveformAugmentation`.
_NUM_CHANGES = 3

Encode = Callable[[tf.Tensor], tf.RaggedTensor]
Prepare = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The training data of a recognizer, and its preprocessing.

    Attributes:
        utterances: all utterances, the same on every process.
        encode: function that converts transcripts `[B]` to ragged labels `[B, (U)]`; called in a
            graph.
        prepare: function of a waveform `[S]` and a seed `[2]` that augments the waveform; called in
            a graph. It returns the waveform `[S']`, `[N]` uniform random numbers in `[0, 1)` for
            the model, and whether the waveform contains the words of the transcript.
        added_samples: function of N seeds `[N, 2]` that returns the number of samples `[N]` by
            which `prepare` makes waveforms longer; None if it does not.
    """

    utterances: Sequence[Utterance]
    encode: Encode
    prepare: Prepare
    added_samples: Callable[[tf.Tensor], tf.Tensor] | None = None


def prepare(
    waveform: tf.Tensor, seed: tf.Tensor, augment: WaveformAugmentation, num_uniforms: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Augments a waveform, and draws random numbers for the model.

    Args:
        waveform: `[S]` float32.
        seed: `[2]` integers.
        augment: augmentation of the waveform.
        num_uniforms: number N of random numbers for the model.

    Returns:
        See `TrainingSet.prepare`.
    """
    uniforms = tf.random.stateless_uniform([_NUM_CHANGES + num_uniforms], seed)
    waveform, has_words = augment(waveform, uniforms[:_NUM_CHANGES], seed)
    return waveform, uniforms[_NUM_CHANGES:], has_words


def count_labels(encode: Encode, transcripts: tf.Tensor) -> np.ndarray:
    """Returns the number of labels `[N]` of transcripts `[N]`."""
    parts = [transcripts[i : i + 4096] for i in range(0, len(transcripts), 4096)]
    return np.concatenate([encode(part).row_lengths().numpy() for part in parts])


# No function of the pipeline needs AutoGraph, which would take seconds.
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
    """Returns the training batches of a process, from a position to the end of the last epoch.

    Random numbers depend only on the seed, the epoch and the utterance. They are the same for any
    number of processes and after resuming.

    Args:
        training_set: utterances and their preprocessing.
        data: section `data` of the config.
        rate_hz: sampling rate of the model.
        seed: seed of the run.
        shard: part of every global batch that belongs to the process.
        position: position in the data at which to start.
        num_epochs: number of epochs of the whole run.

    Returns:
        Batches with `waveforms` `[B, S]`, `lengths` `[B]`, `labels` `[B, U]`, `label_lengths`
        `[B]`, `uniforms` `[B, N]`, `index` `[B]` (-1 for a masked row) and `reason` `[B]` (not
        empty for a dropped row).
    """
    utterances = training_set.utterances
    num_samples = np.array([u.num_samples for u in utterances], np.int64)
    transcripts = tf.constant([u.transcript for u in utterances])
    # Two numbers are of batches without a budget.
    done = [Segment(*x, *([0] if len(x) == 2 else [])) for x in position.done]
    num_labels = None
    if max(data.num_label_buckets, *(x.num_label_buckets or 1 for x in done), 1) > 1:
        num_labels = count_labels(training_set.encode, transcripts)
    budget = int(data.max_batch_seconds * rate_hz)
    # With a budget or buckets by labels, batches depend on more than the global batch size.
    settings = (budget, data.num_buckets, data.num_label_buckets, shard.size)
    settings = settings if budget or data.num_label_buckets > 1 else ()

    def make_plan(epoch: int, steps) -> list[np.ndarray]:
        lengths = num_samples
        if training_set.added_samples is not None:
            seeds = [[epochs.random_seed(epoch), index] for index in range(len(utterances))]
            lengths = lengths + training_set.added_samples(tf.constant(seeds, tf.int64)).numpy()
        return epoch_plan(
            lengths,
            seed=seed,
            epoch=epoch,
            global_batch_size=shard.global_batch_size,
            num_buckets=data.num_buckets,
            max_batch_samples=budget,
            num_labels=num_labels,
            num_label_buckets=data.num_label_buckets,
            num_ranks=shard.size,
            done=done if steps else (),
        )

    epochs = Epochs(make_plan, position, num_epochs, seed, settings=settings)

    def rows() -> Iterator[dict]:
        for epoch, plan in epochs:
            epoch_seed = epochs.random_seed(epoch)
            for batch in plan:
                num_rows = -(-len(batch) // shard.size) if budget else shard.batch_size
                for index in rank_rows(
                    batch, rank=shard.rank, size=shard.size, rows_per_rank=num_rows
                ):
                    yield {"index": int(index), "epoch_seed": epoch_seed, "num_rows": num_rows}

    signature = {
        "index": tf.TensorSpec([], tf.int64),
        "epoch_seed": tf.TensorSpec([], tf.int64),
        "num_rows": tf.TensorSpec([], tf.int64),
    }

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
            "num_rows": row["num_rows"],
        }

    def batched(rows: tf.data.Dataset) -> tf.data.Dataset:
        if not budget:
            return rows.padded_batch(shard.batch_size, drop_remainder=True)
        # Batches of `shard.batch_size` rows, most of them masked, would take gigabytes.
        return rows.group_by_window(
            lambda row: row["num_rows"],
            lambda num_rows, group: group.padded_batch(num_rows),
            window_size_func=lambda num_rows: num_rows,
        )

    def labelled(batch):
        del batch["num_rows"]
        heard = (batch["lengths"] > 0) & batch.pop("has_words")
        texts = tf.where(heard, tf.gather(transcripts, tf.maximum(batch["index"], 0)), "")
        labels = training_set.encode(texts)
        lengths = tf.where(heard, tf.cast(labels.row_lengths(), tf.int32), 0)
        return {**batch, "labels": labels.to_tensor(), "label_lengths": lengths}

    limits = training_limits(data, rate_hz)
    decoder = UtteranceDecoder(utterances, limits, data.num_parallel_calls)
    dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
    dataset = decoder.decode(dataset).map(prepared, num_parallel_calls=decoder.parallel)
    dataset = (
        batched(dataset)
        .map(lambda batch: labelled(pad_to_frame(batch)), num_parallel_calls=1)
        .prefetch(4)
    )
    names = row_names("index", [u.path for u in utterances], [u.utterance_id for u in utterances])
    return epochs.train_data(dataset, names)
