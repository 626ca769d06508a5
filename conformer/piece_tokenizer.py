"""Tokenizer of published models: the pieces of a SentencePiece model in a `tokenizer.json`.

Decoding gives the texts of Hugging Face's tokenizer, without spaces at the ends. Encoding merges
pairs (BPE) or finds the most probable pieces (unigram) of each word.

Source: transformers 5.23, `convert_slow_tokenizer.py`; tokenizers 0.23, models BPE and Unigram.
"""

import itertools
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from conformer.vocabulary import BLANK, Tokenizer
from tools.errors import UserError
from tools.files import to_json
from tools.speech.transcripts import normalization

if TYPE_CHECKING:
    pass

TOKENIZER_FILE = "tokenizer.json"
_SPACE = "\u2581"  # "▁" stands for a space
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_UNKNOWN_SCORE = -1e6  # of a character without a piece, below every path of pieces


class Pieces(NamedTuple):
    """Fields of a `PieceTokenizer`, without the blank.

    Attributes:
        texts: V - 1 pieces, in the order of their published ids.
        special: indices of the pieces that stand for no text.
        unknown: index of the piece for unknown characters.
        merges: pairs of pieces that BPE merges, the first one first; empty for unigram.
        scores: V - 1 log-probabilities of unigram; empty for BPE.
    """

    texts: Sequence[str]
    special: Sequence[int]
    unknown: int
    merges: Sequence[Sequence[str]] = ()
    scores: Sequence[float] = ()


class PieceTokenizer(Tokenizer):
    """A tokenizer with the pieces of a published model. Piece i has id i + 1.

    Texts are encoded with the Unicode normalization NFKC, which SentencePiece's default rules
    contain. Bytes of a character without a piece are encoded as byte pieces, if there are any.

    Args:
        pieces: the vocabulary.

    Raises:
        ValueError: a piece is not a text or occurs twice, or an index is out of range.
    """

    kind = "pieces"

    def __init__(self, pieces: Pieces):
        texts = pieces.texts
        if not texts or any(not isinstance(text, str) or not text for text in texts):
            raise ValueError("a piece that is not a text")
        if len(set(texts)) != len(texts):
            raise ValueError("a piece that occurs twice")
        if any(not 0 <= x < len(texts) for x in (*pieces.special, pieces.unknown)):
            raise ValueError("a special piece that is not in the vocabulary")
        if len(pieces.scores) not in (0, len(texts)):
            raise ValueError("another number of scores than pieces")
        self._pieces, special = pieces, frozenset(pieces.special)
        self._bytes = {
            index + 1: int(match[1], 16)
            for index, text in enumerate(texts)
            if (match := _BYTE.fullmatch(text)) and index not in special
        }
        surfaces = [
            "" if index in special else self._surface(index + 1, text)
            for index, text in enumerate(texts)
        ]
        super().__init__((BLANK, *texts), ("", *surfaces))
        self.normalize = normalization(
            [x for number, x in enumerate(surfaces, 1) if number not in self._bytes],
            longest=math.inf,
        )
        self._ids = {text: i + 1 for i, text in enumerate(texts) if i not in special}
        self._byte_ids = {byte: number for number, byte in self._bytes.items()}
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(pieces.merges)}
        self._longest = max(map(len, texts))

    def _surface(self, number: int, text: str) -> str:
        if number in self._bytes:
            byte = self._bytes[number]
            return chr(byte) if byte < 128 else "\ufffd"
        return text.replace(_SPACE, " ")

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids; byte pieces in a row are joined as UTF-8."""
        known, surfaces = self._bytes, self.surfaces
        parts = (bytes([known[x]]) if x in known else surfaces[x].encode() for x in ids)
        return b"".join(parts).decode("utf-8", "replace").strip(" ")

    def encode(self, text: str) -> list[int]:
        words = unicodedata.normalize("NFKC", text).split()
        find = self._most_probable if self._pieces.scores else self._merged
        ids: list[int] = []
        for word in words:
            for piece in find(_SPACE + word):
                ids += self._ids_of(piece, ids)
        return ids

    def _ids_of(self, piece: str, before: Sequence[int]) -> list[int]:
        """Returns the id of a piece, or of the bytes of a text that has none."""
        if piece in self._ids:
            return [self._ids[piece]]
        encoded = piece.encode()
        if all(byte in self._byte_ids for byte in encoded):
            return [self._byte_ids[byte] for byte in encoded]
        unknown = self._pieces.unknown + 1
        return [] if before and before[-1] == unknown else [unknown]  # unknown symbols are fused

    def _merged(self, word: str) -> list[str]:
        """Merges the pair of the lowest rank, from left to right, until there is none."""
        parts = [*word]
        while len(parts) > 1:
            pairs = [*itertools.pairwise(parts)]
            best = min(pairs, key=lambda pair: self._ranks.get(pair, math.inf))
            if best not in self._ranks:
                break
            place = pairs.index(best)
            parts[place : place + 2] = ["".join(best)]
        return parts

    def _most_probable(self, word: str) -> list[str]:
        """Returns the pieces of the largest sum of scores."""
        best: list[tuple[float, int]] = [(0.0, 0)]  # score and start of the last piece
        for end in range(1, len(word) + 1):
            found = (-math.inf, end - 1)
            for start in range(max(0, end - self._longest), end):
                number = self._ids.get(word[start:end])
                if number is not None:
                    score = self._pieces.scores[number - 1]
                elif end - start == 1:
                    score = _UNKNOWN_SCORE
                else:
                    continue
                found = max(found, (best[start][0] + score, start))
            best.append(found)
        parts, end = [], len(word)
        while end:
            start = best[end][1]
            parts.append(word[start:end])
            end = start
        return parts[::-1]

    def unknown_characters(self, text: str) -> str:
        normal = "".join(unicodedata.normalize("NFKC", text).split())
        return "".join(
            x
            for x in normal
            if x not in self._ids and any(byte not in self._byte_ids for byte in x.encode())
        )

    def to_json(self) -> str:
        return to_json({"kind": self.kind, **self._pieces._asdict()})

    @classmethod
    def from_fields(cls, fields: dict) -> Self:
        return cls(Pieces(**{name: fields[name] for name in Pieces._fields}))


def read_pieces(path: Path, vocabulary_size: int, blank: int) -> PieceTokenizer:
    """Reads a `tokenizer.json` of a published model.

    Args:
        path: the file.
        vocabulary_size: number of symbols V of the model, including the blank.
        blank: index of the blank, which the file may list as a special symbol.

    Raises:
        UserError: the file cannot be read, is not a BPE or unigram tokenizer of SentencePiece
            pieces, or has symbols for other indices than 0 to V - 1.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pieces = _pieces(content, vocabulary_size, blank)
        return PieceTokenizer(pieces)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "a file that is not JSON text"
        raise _broken(path, reason) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        invalid = isinstance(error, json.JSONDecodeError)
        known = str(error) if type(error) is ValueError else "JSON with other fields"
        raise _broken(path, "invalid JSON" if invalid else known) from error


def _pieces(content: Mapping[str, Any], vocabulary_size: int, blank: int) -> Pieces:
    """Returns the vocabulary; raises KeyError, TypeError or ValueError if it is not one."""
    model, added = content["model"], content.get("added_tokens") or []
    kind = model.get("type")
    if kind not in ("BPE", "Unigram"):
        raise ValueError(f"a tokenizer of type {str(kind)[:40]}")
    scores = dict(model["vocab"]) if kind == "Unigram" else {}
    listed = [text for text, _ in model["vocab"]] if scores else None
    ids = {text: i for i, text in enumerate(listed)} if listed else dict(model["vocab"])
    ids |= {token["content"]: token["id"] for token in added}
    texts = {index: text for text, index in ids.items() if index != blank}
    places = [x for x in range(vocabulary_size) if x != blank]
    if sorted(texts) != places:
        raise ValueError(f"{len(texts)} symbols besides the blank for a model with {len(places)}")
    own = {published: number for number, published in enumerate(places)}
    special = sorted({own[x["id"]] for x in added if x.get("special") and x["id"] != blank})
    unknown = model.get("unk_id") if scores else ids.get(model.get("unk_token"))
    if unknown is None or unknown == blank:
        raise ValueError("no unknown symbol")
    merges = [x.split(" ") if isinstance(x, str) else x for x in model.get("merges", [])]
    if any(len(pair) != 2 for pair in merges):
        raise ValueError("a merge that is not a pair")
    return Pieces(
        texts=[texts[x] for x in places],
        special=special,
        unknown=own[unknown],
        merges=[list(pair) for pair in merges],
        scores=[float(scores.get(texts[x], 0.0)) for x in places] if scores else [],
    )


def _broken(path: Path, received: object) -> UserError:
    return UserError.expected(
        f"a {TOKENIZER_FILE} of SentencePiece pieces at {path}", received, "Download it again"
    )
