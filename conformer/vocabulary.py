"""Base class of tokenizers, and the symbols that all vocabularies of the Conformer have."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tools.speech.transcripts import normalize_transcript

if TYPE_CHECKING:  # encoding in Python runs without TensorFlow; graph functions import it
    import tensorflow as tf

BLANK, UNKNOWN = "<blank>", "<unk>"
UNKNOWN_ID = 1
UNKNOWN_CHARACTER = "\u2047"  # "⁇", the text of SentencePiece for the unknown symbol


class Tokenizer(ABC):
    """Base class of tokenizers with a vocabulary of V symbols.

    Args:
        pieces: V symbols. The first is the blank, the second the unknown symbol.
        surfaces: V texts; entry i is the text that id i adds when ids are decoded.

    Attributes:
        normalize: function that normalizes transcripts for the vocabulary.
    """

    kind: ClassVar[str]
    normalize: Callable[[str], str] = staticmethod(normalize_transcript)

    def __init__(self, pieces: Sequence[str], surfaces: Sequence[str]):
        self.pieces, self.surfaces = tuple(pieces), tuple(surfaces)

    @property
    def vocabulary_size(self) -> int:
        """Number of symbols V, including the blank."""
        return len(self.pieces)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids, without spaces at its ends. Blanks add no text."""
        return "".join(self.surfaces[token_id] for token_id in ids).strip(" ")

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text. Characters that are not in the vocabulary get id 1."""

    @abstractmethod
    def unknown_characters(self, text: str) -> str:
        """Returns the characters of a text that are not in the vocabulary, in order."""

    def encode_in_graph(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        """Returns int32 token ids `[B, (U)]` of texts `[B]`, the same ids as `encode`."""
        import tensorflow as tf

        def encode(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = [self.encode(text.decode()) for text in batch]
            flat = [token_id for row in rows for token_id in row]
            return np.array(flat, np.int32), np.array([*map(len, rows)], np.int64)

        texts = tf.convert_to_tensor(texts)
        flat, counts = tf.numpy_function(encode, [texts], (tf.int32, tf.int64))
        flat, counts = (tf.ensure_shape(x, [None]) for x in (flat, counts))
        return tf.RaggedTensor.from_row_lengths(flat, counts)

    def count_labels(self, texts: Sequence[str], at_once: int = 4096) -> np.ndarray:
        """Returns the numbers of token ids of N texts, `[N]`, encoded in batches of `at_once`."""
        parts = [texts[start : start + at_once] for start in range(0, len(texts), at_once)]
        counts = [self.encode_in_graph(part).row_lengths().numpy() for part in parts]
        return np.concatenate(counts) if counts else np.zeros(0, np.int64)

    @abstractmethod
    def to_json(self) -> str:
        """Returns the vocabulary as JSON text, which `tokenizer_from_json` reads."""

    @classmethod
    @abstractmethod
    def from_fields(cls, fields: dict) -> Self:
        """Returns the tokenizer with the fields of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or invalid.
        """
