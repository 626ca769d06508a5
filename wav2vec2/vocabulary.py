"""Vocabulary of a CTC model: converts texts to ids and back."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby

from tools.errors import UserError
from tools.files import one_line
from tools.speech.transcripts import normalization

BLANK, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
CONTROLS = ("<s>", "</s>")
# The vocabulary of the public LibriSpeech checkpoints, in the order of their ids.
LIBRISPEECH = (BLANK, *CONTROLS, UNKNOWN, DELIMITER, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
UNKNOWN_CHARACTER = "\u2047"  # "⁇", text of the unknown symbol, as in the Conformer vocabularies


class Vocabulary:
    """V symbols: characters or phones, word delimiter, CTC blank and control symbols.

    Args:
        tokens: V different symbols in order of id. None is an id without a symbol, which has the
            text of the unknown symbol.
        blank: symbol of the CTC blank.
        unknown: symbol for characters that are not in the vocabulary. It may be absent in `tokens`.
        delimiter: symbol between words; None if there is none.
        controls: symbols without text other than the blank. They may be absent in `tokens`.
        phones: whether texts have a space between two symbols and no word delimiter.
        lower: whether texts are in lower case and symbols in upper case.

    Attributes:
        tokens: the symbols.
        surfaces: text of each symbol.
        normalize: function that converts a transcript to the case of the letters, if all letters
            have the same case.

    Raises:
        UserError: a symbol occurs twice or is half a character, or blank or delimiter is missing.

    Source: transformers 5.23.0, Wav2Vec2CTCTokenizer and Wav2Vec2PhonemeCTCTokenizer.
    """

    def __init__(
        self,
        tokens: Sequence[str | None],
        blank: str = BLANK,
        unknown: str = UNKNOWN,
        delimiter: str | None = DELIMITER,
        *,
        controls: Sequence[str] = CONTROLS,
        phones: bool = False,
        lower: bool = False,
    ):
        self.tokens = tuple(tokens)
        self.blank, self.unknown, self.delimiter = blank, unknown, delimiter
        self.controls, self.phones, self.lower = tuple(controls), phones, lower
        self.token_ids = {
            token: index for index, token in enumerate(self.tokens) if token is not None
        }
        named = [blank] if delimiter is None else [blank, delimiter]
        count = len(self.tokens) - self.tokens.count(None)
        if len(self.token_ids) < count or not self.token_ids.keys() >= {*named}:
            raise UserError.expected(
                f"a vocabulary of different symbols with {' and '.join(named)}",
                f"{len(self.token_ids)} different symbols of {count}: {some(self.token_ids)}",
                "Correct the vocabulary",
            )
        try:
            "".join(self.token_ids).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start : error.end])
            raise UserError.expected(
                "symbols of whole characters", half, "Correct the vocabulary"
            ) from error
        self.surfaces = tuple(self._surface(token) for token in self.tokens)
        self.normalize = normalization(self.surfaces)

    def _surface(self, token: str | None) -> str:
        """Returns the text of a symbol. `decode` removes space at the start of a text."""
        between = " " if self.phones else ""
        if token is None or token == self.unknown:
            return between + UNKNOWN_CHARACTER
        if token == self.blank or token in self.controls:
            return ""
        if token == self.delimiter:
            return "" if self.phones else " "
        return between + (token.lower() if self.lower else token)

    @cached_property
    def _known(self) -> dict[str, tuple[int, ...]]:
        """Ids by text of the symbols, in composed and decomposed Unicode form."""
        known: dict[str, tuple[int, ...]] = {}
        for token, index in self.token_ids.items():
            surface = self.surfaces[index].removeprefix(" " if self.phones else "")
            if not surface or token in (self.unknown, self.delimiter):
                continue
            # If an upper-case and a lower-case symbol have the same text, transformers uses the
            # upper-case symbol.
            if not self.lower or token == token.upper() or surface not in known:
                known[surface] = (index,)
        for surface in list(known):
            for form in ("NFC", "NFD"):
                known.setdefault(unicodedata.normalize(form, surface), known[surface])
        if self.delimiter is None:
            known.setdefault(" ", ())
        else:
            known[" "] = known[self.delimiter] = (self.delimiter_id,)
        return known

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._known))

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._meaning == other._meaning

    __hash__ = None

    @property
    def _meaning(self) -> tuple:
        special = (self.blank, self.unknown_id, self.delimiter, self.phones, self.lower)
        return (self.tokens, self.surfaces, *special)

    @property
    def blank_id(self) -> int:
        """Id of the CTC blank."""
        return self.token_ids[self.blank]

    @property
    def delimiter_id(self) -> int | None:
        """Id of the symbol between words; None if there is none."""
        return None if self.delimiter is None else self.token_ids[self.delimiter]

    @property
    def unknown_id(self) -> int | None:
        """Id of the unknown symbol; None if there is none."""
        return self.token_ids.get(self.unknown)

    def encode(self, text: str) -> list[int]:
        """Normalizes a text and returns its ids; see `ids`."""
        return self.ids(self.normalize(text))

    def ids(self, text: str) -> list[int]:
        """Returns the ids of a normalized text. Unknown characters get the unknown symbol.

        Raises:
            UserError: the text has unknown characters, and there is no unknown symbol.
        """
        pieces = self.pieces(text)
        if self.unknown_id is None and (missing := sorted({x for x, ids in pieces if ids is None})):
            raise UserError.expected(
                f"a transcript with the characters {some(self.surfaces)}",
                " ".join(missing),
                "Normalize the transcript, or add a symbol for unknown characters",
            )
        return [x for _, ids in pieces for x in ((self.unknown_id,) if ids is None else ids)]

    def unknown_characters(self, text: str) -> str:
        """Returns the characters of a normalized text that are not in the vocabulary, in order."""
        return "".join(x for x, ids in self.pieces(text) if ids is None)

    def pieces(self, text: str) -> list[tuple[str, tuple[int, ...] | None]]:
        """Splits a normalized text into pieces with their ids; None for unknown pieces.

        At each position, a piece is the longest symbol that matches, or else one character. A
        character without a symbol gets the ids of its parts if they have symbols: letter and
        diacritical marks, or the jamo of a Hangul syllable.
        """
        if self.phones:
            found = [(phone, self._known.get(phone)) for phone in text.split(" ") if phone]
            return [x for pair in found for x in (pair, (" ", ()))][:-1]
        if self._longest == 1:
            return [(x, self._known.get(x) or self._ids_of_parts(x)) for x in text]
        found, place = [], 0
        while place < len(text):
            piece = self._longest_at(text, place) or text[place]
            ids = self._known.get(piece)
            found.append((piece, self._ids_of_parts(piece) if ids is None else ids))
            place += len(piece)
        return found

    def _longest_at(self, text: str, place: int) -> str:
        """Returns the longest symbol at a position of a text; empty if no symbol matches."""
        sizes = range(min(self._longest, len(text) - place), 0, -1)
        return next((x for n in sizes if (x := text[place : place + n]) in self._known), "")

    def _ids_of_parts(self, character: str) -> tuple[int, ...] | None:
        parts, place, ids = unicodedata.normalize("NFD", character), 0, ()
        while place < len(parts):
            part = self._longest_at(parts, place)
            if not part:
                return None
            ids += self._known[part]
            place += len(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of labels, without whitespace at its ends. Blanks add no text."""
        return "".join(self.surfaces[x] for x in ids).strip()

    def collapse(self, path: Iterable[int]) -> list[int]:
        """Returns the labels of a path with one id per frame: merges repeats, removes blanks.

        Source: Graves et al., Connectionist temporal classification (2006), section 3.1.
        """
        return [int(x) for x, _ in groupby(path) if x != self.blank_id]

    def decode_path(self, path: Iterable[int]) -> str:
        """Returns the text of a path with one id per frame, such as the best symbols."""
        return self.decode(self.collapse(path))


def vocabulary_of_letters(transcripts: Iterable[str]) -> Vocabulary:
    """Returns a vocabulary with the sorted characters of transcripts, without control symbols."""
    letters = sorted({x for text in transcripts for x in text} - {" ", DELIMITER})
    return Vocabulary((BLANK, UNKNOWN, DELIMITER, *letters))


def some(items: Iterable[object], count: int = 40) -> str:
    """Joins the first `count` items for a message, with control characters escaped."""
    items = [one_line(x) for x in items if x not in ("", None)]
    return " ".join(items[:count]) + (" ..." if len(items) > count else "")
