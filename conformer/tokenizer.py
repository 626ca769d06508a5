"""Tokenizers: transcripts to token ids and back, in Python and inside a `tf.data` graph.

Id 0 is the transducer's blank and id 1 the unknown symbol, in either kind of vocabulary. A
vocabulary is one JSON text, which checkpoints and exported models carry along.
"""

import base64
import binascii
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import sentencepiece

from tools.errors import UserError
from tools.files import to_json, write_text

if TYPE_CHECKING:  # TensorFlow is imported where a graph is built: encoding needs none of it
    import tensorflow as tf

BLANK, UNKNOWN = "<blank>", "<unk>"
UNKNOWN_ID = 1
UNKNOWN_CHARACTER = "\u2047"  # "⁇", what SentencePiece prints for the unknown symbol
MODEL_TYPES = ("unigram", "bpe")
_MAKE_ONE = "Make one with python -m tools.cli.train_tokenizer"
_MAX_SENTENCE_BYTES = 65536  # SentencePiece passes over longer ones in silence


class Tokenizer(ABC):
    """A vocabulary of V symbols.

    Args:
        pieces: V symbols, the blank and the unknown one first.
        surfaces: V texts, what each id adds to a decoded text.
    """

    kind: ClassVar[str]

    def __init__(self, pieces: Sequence[str], surfaces: Sequence[str]):
        self.pieces, self.surfaces = tuple(pieces), tuple(surfaces)

    @property
    def vocabulary_size(self) -> int:
        """V, blank included."""
        return len(self.pieces)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids, without outer spaces; blanks add nothing."""
        return "".join(self.surfaces[token_id] for token_id in ids).strip(" ")

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text; what the vocabulary lacks becomes id 1."""

    @abstractmethod
    def unknown_characters(self, text: str) -> str:
        """Returns the characters of a text that the vocabulary lacks, in their order."""

    @abstractmethod
    def encode_in_graph(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        """Returns the token ids `[B, (U)]` int32 of texts `[B]`, the same as those of `encode`."""

    def count_labels(self, texts: Sequence[str], at_once: int = 4096) -> np.ndarray:
        """Counts the token ids of each text, `[N]`; the graph encodes `at_once` texts in a call."""
        parts = [texts[start : start + at_once] for start in range(0, len(texts), at_once)]
        counts = [self.encode_in_graph(part).row_lengths().numpy() for part in parts]
        return np.concatenate(counts) if counts else np.zeros(0, np.int64)

    @abstractmethod
    def to_json(self) -> str:
        """Returns the whole vocabulary as JSON, for `tokenizer_from_json`."""

    @classmethod
    @abstractmethod
    def from_fields(cls, fields: dict) -> Self:
        """Builds from the fields of `to_json`; raises KeyError, TypeError or ValueError."""


class CharacterTokenizer(Tokenizer):
    """One symbol for each character.

    Args:
        characters: V - 2 different characters.

    Raises:
        ValueError: none, one that is no single character, or one that comes twice.
    """

    kind = "characters"

    def __init__(self, characters: Sequence[str]):
        if not characters:
            raise ValueError("no characters")
        if any(not isinstance(character, str) or len(character) != 1 for character in characters):
            raise ValueError("a symbol that is not one character")
        if len(set(characters)) != len(characters):
            raise ValueError("a character that comes twice")
        super().__init__(
            (BLANK, UNKNOWN, *characters),
            ("", UNKNOWN_CHARACTER, *characters),
        )
        self._ids = {character: index + 2 for index, character in enumerate(characters)}

    @classmethod
    def from_transcripts(cls, transcripts: Iterable[str]) -> Self:
        """Builds from the characters that transcripts hold, sorted; raises UserError for none."""
        characters = sorted({character for text in transcripts for character in text})
        if not characters:
            raise UserError.expected("transcripts to make a vocabulary of", "none", "Add some")
        return cls(characters)

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(character, UNKNOWN_ID) for character in text]

    def unknown_characters(self, text: str) -> str:
        return "".join(character for character in text if character not in self._ids)

    @cached_property
    def _table(self):
        import tensorflow as tf

        with tf.init_scope():  # a table made while a graph is traced would die with that graph
            entries = tf.lookup.KeyValueTensorInitializer(
                list(self._ids), list(self._ids.values()), tf.string, tf.int32
            )
            return tf.lookup.StaticHashTable(entries, default_value=UNKNOWN_ID)

    def encode_in_graph(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        import tensorflow as tf

        characters = tf.strings.unicode_split(texts, "UTF-8")
        return characters.with_values(self._table.lookup(characters.values))

    def to_json(self) -> str:
        return to_json({"kind": self.kind, "characters": self.pieces[2:]})

    @classmethod
    def from_fields(cls, fields: dict) -> Self:
        return cls(fields["characters"])


class SentencePieceTokenizer(Tokenizer):
    """Subwords of a SentencePiece model, whose ids are shifted by one to make room for the blank.

    Args:
        model: a serialized SentencePiece model whose unknown symbol has id 0.

    Raises:
        ValueError: not such a model.

    Source: Kudo and Richardson, SentencePiece (2018); sentencepiece 0.2.3, tensorflow-text 2.16.1.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError("no SentencePiece model") from error
        if len(processor) < 2 or processor.unk_id() != UNKNOWN_ID - 1:
            raise ValueError("a SentencePiece model whose unknown symbol is not id 0")
        pieces = [processor.IdToPiece(index) for index in range(len(processor))]
        surfaces = [piece.replace("▁", " ") for piece in pieces]
        for index in range(len(pieces)):
            if processor.IsByte(index):
                raise ValueError("a SentencePiece model with byte fallback")
            if processor.IsControl(index):
                surfaces[index] = ""
        surfaces[processor.unk_id()] = processor.Decode([processor.unk_id()])
        super().__init__((BLANK, *pieces), ("", *surfaces))
        self.model = model
        self._processor = processor

    @classmethod
    def train(
        cls, transcripts: Iterable[str], vocabulary_size: int, model_type: str = "unigram"
    ) -> Self:
        """Trains on transcripts; the same ones in the same order give the same vocabulary.

        Args:
            transcripts: text as it is to be written, case and spaces included.
            vocabulary_size: V, blank and unknown symbol included.
            model_type: "unigram" or "bpe".

        Raises:
            UserError: no transcripts, or a vocabulary too large or too small for them.
        """
        if model_type not in MODEL_TYPES:
            raise UserError.expected("model type unigram or bpe", model_type, "Choose one of them")
        sentences = [text for text in transcripts if text.strip()]
        if not sentences:
            raise UserError.expected("transcripts to make a vocabulary of", "none", "Add some")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                vocab_size=vocabulary_size - 1,
                model_type=model_type,
                character_coverage=1.0,
                # Transcripts are normalized when they are read, and must come back as they are.
                normalization_rule_name="identity",
                max_sentence_length=_MAX_SENTENCE_BYTES,
                num_threads=8,  # the model depends on it in its last digits
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            raise _training_error(str(error), vocabulary_size) from error
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        return [index + 1 for index in self._processor.Encode(text)]

    def unknown_characters(self, text: str) -> str:
        pieces = self._processor.Encode(text, return_type="proto").pieces
        unknown = "".join(piece.surface for piece in pieces if piece.id == UNKNOWN_ID - 1)
        return "".join(unknown.split())

    def encode_in_graph(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        import tensorflow as tf
        import tensorflow_text

        # Made anew in every graph: the op's kernel owns the model, and setting TensorFlow's seed
        # discards the kernels of eager ops (tensorflow-text 2.16.1, sentencepiece_tokenizer.py).
        tokenizer = tensorflow_text.SentencepieceTokenizer(self.model, out_type=tf.int32)
        return tokenizer.tokenize(texts) + 1

    def to_json(self) -> str:
        return to_json({"kind": self.kind, "model": base64.b64encode(self.model).decode()})

    @classmethod
    def from_fields(cls, fields: dict) -> Self:
        try:
            return cls(base64.b64decode(fields["model"], validate=True))
        except binascii.Error as error:
            raise ValueError("a model that is not base64") from error


def _training_error(message: str, vocabulary_size: int) -> UserError:
    """Returns what SentencePiece's message says about the size of the vocabulary."""
    too_large = re.search(r"size too high \(\d+\).*<= (\d+)", message)
    if too_large:
        largest = int(too_large[1]) + 1
        expected = f"a vocabulary of at most {largest} for these transcripts"
        return UserError.expected(expected, vocabulary_size, "Lower vocabulary_size")
    too_small = re.search(r"smaller than required_chars. \d+ vs (\d+)", message)
    if too_small:
        smallest = int(too_small[1]) + 1
        expected = f"a vocabulary of at least {smallest} for these transcripts"
        return UserError.expected(expected, vocabulary_size, "Raise vocabulary_size")
    return UserError.expected(
        f"transcripts for a vocabulary of {vocabulary_size}",
        f'"{" ".join(message.split())}" from sentencepiece',
        "Change vocabulary_size or the transcripts",
    )


_KINDS = {kind.kind: kind for kind in (CharacterTokenizer, SentencePieceTokenizer)}


def tokenizer_from_json(text: str, source: str | Path = "the vocabulary") -> Tokenizer:
    """Builds the tokenizer of `Tokenizer.to_json`.

    Args:
        text: JSON.
        source: where the text is from, for messages.

    Raises:
        UserError: not a vocabulary, or one that holds nothing or a symbol twice.
    """
    try:
        fields = json.loads(text)
        return _KINDS[fields["kind"]].from_fields(fields)
    except (KeyError, TypeError, ValueError) as error:
        broken = isinstance(error, json.JSONDecodeError)
        found = str(error) if type(error) is ValueError else "no JSON" if broken else "other JSON"
        raise UserError.expected(f"a vocabulary in {source}", found, _MAKE_ONE) from error


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a vocabulary file; raises UserError if it is missing or broken."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError.expected(f"a vocabulary in {path}", reason, _MAKE_ONE) from error
    return tokenizer_from_json(text, path)


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes a vocabulary file, whole or not at all; raises UserError if it cannot."""
    write_text(Path(path), tokenizer.to_json() + "\n")
