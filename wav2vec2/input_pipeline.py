"""The labels of transcripts, and how many frames they need."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

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


def label_lookup(ids: Mapping[str, int]) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """Makes what gives transcripts `[B]` their labels `[B, (U)]`, in the graph.

    Args:
        ids: of `character_ids`.
    """
    entries = tf.lookup.KeyValueTensorInitializer(
        list(ids), list(ids.values()), tf.string, tf.int32
    )
    table = tf.lookup.StaticHashTable(entries, default_value=-1)

    def encode(texts):
        characters = tf.strings.unicode_split(texts, "UTF-8")
        return characters.with_values(table.lookup(characters.values))

    return encode
