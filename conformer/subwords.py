"""Subword vocabularies with bytes for all other text, as files `*.subwords` hold them."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from tools.errors import UserError
from tools.speech.transcripts import normalization

SUFFIX = ".subwords"
NUM_BYTES = 256
_HEADER, _METADATA = "### SubwordTextEncoder", "### Metadata: "
# Stands for an underscore of the text, as an underscore at the end of a subword means a space.
_UNDERSCORE = "\\&undsc"
_NOT_WORD = re.compile(r"(\W+)")


class Subwords:
    """Encoder and decoder of a subword vocabulary.

    Id 0 is the padding, which TensorFlowASR uses as the blank. Ids 1 to N are the subwords in the
    order of the file, and the last 256 ids are the bytes of UTF-8 text that no subword covers.

    Args:
        subwords: N texts. An underscore at the end stands for one space. Of equal texts, the last
            one is used for encoding.

    Attributes:
        subwords: `[N]` subwords, without empty ones.
        surfaces: `[N]` text of each subword.
        normalize: function that normalizes transcripts to the case of the subwords.

    Raises:
        ValueError: there are no subwords, or one of them is not a text.

    Source: tensorflow-datasets 4.9.9, core/deprecated/text/subword_text_encoder.py, whose ids and
    texts this class reproduces.
    """

    def __init__(self, subwords: Sequence[str]):
        if any(not isinstance(subword, str) for subword in subwords):
            raise ValueError("a subword that is not a text")
        self.subwords = tuple(subword for subword in subwords if subword)
        if not self.subwords:
            raise ValueError("no subwords")
        self.surfaces = tuple(map(_surface, self.subwords))
        self.normalize = normalization(self.surfaces, longest=math.inf)
        self._ids = {subword: number for number, subword in enumerate(self.subwords, start=1)}
        self._longest = max(map(len, (_UNDERSCORE, *self.subwords)))
        whole = sorted({_UNDERSCORE, *filter(_is_mixed, self.subwords)}, key=len, reverse=True)
        self._whole = re.compile(f"({'|'.join(map(re.escape, whole))})")

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; none of them is 0."""
        return [number for token in self._tokens(text) for number in self._token_ids(token)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids of subwords and bytes. Bytes that are not UTF-8 become U+FFFD."""
        last = len(self.subwords)
        parts = [
            self.surfaces[number - 1].encode() if number <= last else bytes([number - last - 1])
            for number in ids
        ]
        return b"".join(parts).decode("utf-8", "replace")

    def _tokens(self, text: str) -> list[str]:
        """Splits a text into words and the text between them; a word includes the space after."""
        parts: list[str] = []
        for index, part in enumerate(self._whole.split(text)):
            # Every second part is a reserved text, because the pattern is a group.
            parts += [part] if index % 2 else filter(None, _NOT_WORD.split(part))
        tokens, is_joined = [], False
        for part, following in zip_longest(parts, parts[1:]):
            if is_joined:
                is_joined = False
                continue
            space = "_" if following == " " else ""
            if part == _UNDERSCORE:  # in the text itself: the space is encoded once more
                tokens += ["\\&", _UNDERSCORE[2:] + space]
                continue
            tokens.append(part.replace("_", _UNDERSCORE) + space)
            is_joined = bool(space)
        return tokens

    def _token_ids(self, token: str) -> list[int]:
        """Returns the ids of a token: from left to right, always the longest subword."""
        ids, start, first_byte = [], 0, len(self.subwords) + 1
        while start < len(token):
            for end in range(min(len(token), start + self._longest), start, -1):
                piece = token[start:end]
                if piece == _UNDERSCORE or piece in self._ids:
                    break
            if piece == _UNDERSCORE:
                ids.append(first_byte + ord("_"))
            elif piece in self._ids:
                ids.append(self._ids[piece])
            else:
                ids += [first_byte + x for x in (b" " if piece == "_" else piece.encode())]
            start = end
        return ids


def _is_mixed(subword: str) -> bool:
    """Returns whether a subword has both word characters and others."""
    return sum(map(bool, _NOT_WORD.split(subword))) > 1


def _surface(subword: str) -> str:
    return f"{subword[:-1]} " if subword.endswith("_") else subword


def subword_normalization(surfaces: Sequence[str]) -> Callable[[str], str]:
    """Returns the function that normalizes transcripts to the case of the subwords.

    Args:
        surfaces: `[V]` text of each symbol. The last 256 are bytes, which have both cases.
    """
    return normalization(surfaces[:-NUM_BYTES], longest=math.inf)


def read_subwords(path: Path) -> list[str]:
    """Returns the subwords in a file, including empty ones.

    Raises:
        UserError: the file cannot be read, or is not such a file.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "a file that is not UTF-8 text"
        raise _broken(path, reason) from error
    if lines[0] != _HEADER or not lines[1:] or not lines[1].startswith(_METADATA):
        raise _broken(path, f"a file that does not start with {_HEADER} and {_METADATA.strip()}")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines[2:], start=3):
        if len(line) < 2 or line[0] + line[-1] != "''":
            raise _broken(path, f"line {number} without single quotes around the subword")
    return [line[1:-1] for line in lines[2:]]


def _broken(path: Path, received: str) -> UserError:
    return UserError.expected(
        f"a vocabulary of tensorflow-datasets in {path}", received, "Write or copy it again"
    )
