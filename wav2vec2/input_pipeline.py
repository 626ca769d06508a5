"""Labels of transcripts, and the number of frames that CTC requires for them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from wav2vec2.vocabulary import Vocabulary

_END = "\x1f"  # end of a piece; normalized transcripts do not contain this character


def label_pieces(vocabulary: Vocabulary, transcripts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Returns the ids of all pieces that normalized transcripts consist of.

    Pieces that are not in the vocabulary get the id of the unknown symbol, which must exist.
    """
    pieces: dict[str, tuple[int, ...] | None] = {}
    for text in transcripts:
        pieces.update(vocabulary.pieces(text))
    return {x: (vocabulary.unknown_id,) if ids is None else ids for x, ids in pieces.items()}


def frames_needed(labels: Sequence[int]) -> int:
    """Returns the smallest number of frames for labels: equal labels require a blank between them.

    Source: Graves et al., Connectionist temporal classification (2006), section 3.1.
    """
    labels = np.asarray(labels)
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))


def label_lookup(pieces: Mapping[str, tuple[int, ...]]) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """Returns a graph function that maps transcripts `[B]` to labels `[B, (U)]`.

    Args:
        pieces: result of `label_pieces` for all transcripts.
    """
    longest_first = sorted((x for x in pieces if len(x) > 1), key=len, reverse=True)
    pattern = "|".join([*map(re.escape, longest_first), "."])
    # The last part of a split is empty.
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
