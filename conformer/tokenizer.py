"""Tokenizers: convert transcripts to token ids and back, in Python and in a `tf.data` graph.

Id 0 is the blank of the transducer. Id 1 is the unknown symbol, except in vocabularies of
tensorflow-datasets, which encode any text. A vocabulary is saved as JSON text in checkpoints and
exported models.
"""

import base64
import binascii
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import sentencepiece

from conformer.piece_tokenizer import PieceTokenizer
from conformer.subwords import NUM_BYTES, SUFFIX, Subwords, read_subwords
from conformer.vocabulary import (
    BLANK,
    UNKNOWN,
    UNKNOWN_CHARACTER,
    UNKNOWN_ID,
    Tokenizer,
)
from tools.decoding.text import byte_surface
from tools.errors import UserError
from tools.files import to_json, write_text
from tools.speech.transcripts import normalization

if TYPE_CHECKING:  # encoding in Python runs without TensorFlow; graph functions import it
    import tensorflow as tf

MODEL_TYPES = ("unigram", "bpe")
_MAKE_ONE = "Create one with python -m tools.cli.train_tokenizer"
_MAX_SENTENCE_BYTES = 65536  # SentencePiece skips longer transcripts without a message


class CharacterTokenizer(Tokenizer):
    """A tokenizer with one symbol for each character.

    Args:
        characters: V - 2 different characters.

    Raises:
        ValueError: `characters` is empty, an entry is not a single character, or a character
            occurs twice.
    """

    kind = "characters"

    def __init__(self, characters: Sequence[str]):
        if not characters:
            raise ValueError("no characters")
        if any(not isinstance(character, str) or len(character) != 1 for character in characters):
            raise ValueError("a symbol that is not one character")
        if len(set(characters)) != len(characters):
            raise ValueError("a character that occurs twice")
        super().__init__(
            (BLANK, UNKNOWN, *characters),
            ("", UNKNOWN_CHARACTER, *characters),
        )
        self._ids = {character: index + 2 for index, character in enumerate(characters)}

    @classmethod
    def from_transcripts(cls, transcripts: Iterable[str]) -> Self:
        """Returns a tokenizer with the sorted characters of transcripts.

        Raises:
            UserError: the transcripts contain no characters.
        """
        characters = sorted({character for text in transcripts for character in text})
        if not characters:
            raise UserError.expected(
                "transcripts to build a vocabulary from", "none", "Add transcripts"
            )
        return cls(characters)

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(character, UNKNOWN_ID) for character in text]

    def unknown_characters(self, text: str) -> str:
        return "".join(character for character in text if character not in self._ids)

    @cached_property
    def _table(self):
        import tensorflow as tf

        with tf.init_scope():  # a table that is created inside a graph is deleted with the graph
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
    """A tokenizer with the subwords of a SentencePiece model. Its ids + 1 are the token ids.

    Args:
        model: a serialized SentencePiece model whose unknown symbol has id 0.

    Raises:
        ValueError: `model` is not such a model, or uses byte fallback.

    Source: Kudo and Richardson, SentencePiece (2018); sentencepiece 0.2.3.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError("data that is not a SentencePiece model") from error
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
        self.normalize = normalization(self.surfaces, longest=math.inf)

    @classmethod
    def train(
        cls, transcripts: Iterable[str], vocabulary_size: int, model_type: str = "unigram"
    ) -> Self:
        """Trains a SentencePiece model. The same transcripts in the same order give the same model.

        Args:
            transcripts: texts in the form in which the model is to write them.
            vocabulary_size: number of symbols V, including the blank and the unknown symbol.
            model_type: "unigram" or "bpe".

        Raises:
            UserError: there are no transcripts, or the vocabulary is too large or too small for
                them.
        """
        if model_type not in MODEL_TYPES:
            raise UserError.expected("model type unigram or bpe", model_type, "Select one of them")
        sentences = [text for text in transcripts if text.strip()]
        if not sentences:
            raise UserError.expected(
                "transcripts to build a vocabulary from", "none", "Add transcripts"
            )
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                vocab_size=vocabulary_size - 1,
                model_type=model_type,
                character_coverage=1.0,
                # Transcripts are already normalized, and decoding must return them unchanged.
                normalization_rule_name="identity",
                max_sentence_length=_MAX_SENTENCE_BYTES,
                num_threads=8,  # fixed, because the scores depend on it in their last digits
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

    def to_json(self) -> str:
        return to_json({"kind": self.kind, "model": base64.b64encode(self.model).decode()})

    @classmethod
    def from_fields(cls, fields: dict) -> Self:
        try:
            return cls(base64.b64decode(fields["model"], validate=True))
        except binascii.Error as error:
            raise ValueError("a model that is not base64 text") from error


class SubwordTokenizer(Tokenizer):
    """A tokenizer with a vocabulary of tensorflow-datasets. Text that no subword covers is bytes.

    Args:
        subwords: V - 257 subwords; empty ones are left out.

    Raises:
        ValueError: `subwords` is empty, or an entry is not a text.
    """

    kind = "subwords"

    def __init__(self, subwords: Sequence[str]):
        self._codec = codec = Subwords(subwords)
        texts = map(byte_surface, range(NUM_BYTES))
        pieces = [f"<0x{byte:02X}>" for byte in range(NUM_BYTES)]
        super().__init__((BLANK, *codec.subwords, *pieces), ("", *codec.surfaces, *texts))
        self.normalize = codec.normalize

    def decode(self, ids: Iterable[int]) -> str:
        return self._codec.decode(token_id for token_id in ids if token_id).strip(" ")

    def encode(self, text: str) -> list[int]:
        return self._codec.encode(text)

    def unknown_characters(self, text: str) -> str:
        return ""

    def to_json(self) -> str:
        return to_json({"kind": self.kind, "subwords": self._codec.subwords})

    @classmethod
    def from_fields(cls, fields: dict) -> Self:
        return cls(fields["subwords"])


_SIZE_KEY = "tokenizer.vocabulary_size of the config, or --vocabulary_size of train_tokenizer"


def _training_error(message: str, vocabulary_size: int) -> UserError:
    """Converts an error message of SentencePiece to one that names the possible sizes."""
    too_large = re.search(r"size too high \(\d+\).*<= (\d+)", message)
    if too_large:
        largest = int(too_large[1]) + 1
        expected = f"a vocabulary of at most {largest} for these transcripts"
        return UserError.expected(expected, vocabulary_size, f"Lower {_SIZE_KEY}")
    too_small = re.search(r"smaller than required_chars. \d+ vs (\d+)", message)
    if too_small:
        smallest = int(too_small[1]) + 1
        expected = f"a vocabulary of at least {smallest} for these transcripts"
        return UserError.expected(expected, vocabulary_size, f"Raise {_SIZE_KEY}")
    return UserError.expected(
        f"transcripts for a vocabulary of {vocabulary_size}",
        f'"{" ".join(message.split())}" from sentencepiece',
        f"Change {_SIZE_KEY}, or the transcripts",
    )


_KINDS: dict[str, type[Tokenizer]] = {
    x.kind: x
    for x in (CharacterTokenizer, SentencePieceTokenizer, SubwordTokenizer, PieceTokenizer)
}


def tokenizer_from_json(text: str, source: str | Path = "the vocabulary") -> Tokenizer:
    """Returns the tokenizer in a JSON text written by `Tokenizer.to_json`.

    Args:
        text: JSON text.
        source: origin of the text, for error messages.

    Raises:
        UserError: the text is not a vocabulary, or the vocabulary is empty or has a symbol twice.
    """
    try:
        fields = json.loads(text)
        return _KINDS[fields["kind"]].from_fields(fields)
    except (KeyError, TypeError, ValueError) as error:
        broken = isinstance(error, json.JSONDecodeError)
        found = (
            str(error)
            if type(error) is ValueError
            else "invalid JSON"
            if broken
            else "JSON with other fields"
        )
        raise UserError.expected(f"a vocabulary in {source}", found, _MAKE_ONE) from error


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Returns the tokenizer in a vocabulary file, or in a file `*.subwords`.

    Raises:
        UserError: the file cannot be read or is not a vocabulary.
    """
    if Path(path).name.endswith(SUFFIX):
        try:
            return SubwordTokenizer(read_subwords(Path(path)))
        except ValueError as error:
            raise UserError.expected(f"subwords in {path}", error, _MAKE_ONE) from error
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "a file that is not UTF-8 text"
        raise UserError.expected(f"a vocabulary in {path}", reason, _MAKE_ONE) from error
    return tokenizer_from_json(text, path)


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes a vocabulary file. If writing fails, no incomplete file is left behind.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(Path(path), tokenizer.to_json() + "\n")
