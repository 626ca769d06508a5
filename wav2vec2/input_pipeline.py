"""The labels of transcripts, and how many frames they need."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from wav2vec2.vocabulary import Vocabulary

_END = "\x1f"  # of a piece; no transcript that is normalized holds one


def label_pieces(vocabulary: Vocabulary, transcripts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Maps the pieces that normalized transcripts are made of to ids.

    What the vocabulary lacks has the id of the unknown symbol, which has to be there.
    """
    pieces: dict[str, tuple[int, ...] | None] = {}
    for text in transcripts:
        pieces.update(vocabulary.pieces(text))
    return {x: (vocabulary.unknown_id,) if ids is None else ids for x, ids in pieces.items()}


def frames_needed(labels: Sequence[int]) -> int:
    """Counts the frames of the shortest path of labels: a blank stands between equal ones.

    Source: Graves et al., Connectionist temporal classification (2006), section 3.1.
    """
    labels = np.asarray(labels)
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))


def label_lookup(pieces: Mapping[str, tuple[int, ...]]) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """Makes what gives transcripts `[B]` their labels `[B, (U)]`, in the graph.

    Args:
        pieces: of `label_pieces`, of these transcripts at least.
    """
    longest_first = sorted((x for x in pieces if len(x) > 1), key=len, reverse=True)
    pattern = "|".join([*map(re.escape, longest_first), "."])
    # The last piece of a split is empty.
    entries = tf.lookup.KeyValueTensorInitializer(
        ["", *pieces], list(range(len(pieces) + 1)), tf.string, tf.int32
    )
    rows = tf.lookup.StaticHashTable(entries, default_value=-1)
    ids = tf.RaggedTensor.from_row_lengths(
        tf.constant([x for row in pieces.values() for x in row], tf.int32),
        [0, *map(len, pieces.values())],
    )

    def encode(texts):
        cut = tf.strings.regex_replace(texts, f"({pattern})", rf"\1{_END}")
        found = tf.strings.split(cut, _END)
        labels = tf.gather(ids, rows.lookup(found.values))
        return found.with_values(labels).merge_dims(1, 2)

    return encode
