"""Training batches: the labels of transcripts, and the random numbers of the masks."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tools.recognition.training_data import training_data
from tools.speech.config import DataConfig
from tools.speech.corpus import Utterance
from tools.training.task import Position, Shard, TrainData
from wav2vec2.vocabulary import Vocabulary


def character_ids(vocabulary: Vocabulary, characters: str) -> dict[str, int]:
    """Returns the id of each character that transcripts in the vocabulary's case are made of.

    Raises:
        UserError: there are some that the vocabulary lacks, and it has no symbol for these.
    """
    return dict(zip(characters, vocabulary.ids(characters), strict=True))


def frames_needed(text: str, ids: Mapping[str, int]) -> int:
    """Counts the frames of the shortest path of a transcript: a blank stands between equal labels.

    Source: Graves et al., Connectionist temporal classification (2006), section 3.1.
    """
    labels = np.array([ids[x] for x in text])
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))


def train_data(
    utterances: Sequence[Utterance],
    ids: Mapping[str, int],
    num_uniforms: int,
    data: DataConfig,
    rate_hz: int,
    seed: int,
    shard: Shard,
    position: Position,
    num_epochs: int,
) -> TrainData:
    """Makes one process's batches from a position to the end of the last epoch.

    Args:
        utterances: the whole training set, the same on every process.
        ids: of `character_ids`.
        num_uniforms: random numbers an utterance gets for its masks.
        data: sizes and limits.
        rate_hz: sample rate of the model.
        seed: of the run.
        shard: this process's part.
        position: where to begin.
        num_epochs: where to end.
    """
    entries = tf.lookup.KeyValueTensorInitializer(
        list(ids), list(ids.values()), tf.string, tf.int32
    )
    table = tf.lookup.StaticHashTable(entries, default_value=-1)

    def encode(texts):
        characters = tf.strings.unicode_split(texts, "UTF-8")
        return characters.with_values(table.lookup(characters.values))

    def prepare(waveform, seed):
        return waveform, tf.random.stateless_uniform([num_uniforms], seed)

    return training_data(
        utterances, encode, prepare, data, rate_hz, seed, shard, position, num_epochs
    )
