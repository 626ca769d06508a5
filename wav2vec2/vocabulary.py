"""The symbols that a CTC model writes: Hugging Face's `vocab.json`, text to ids and back."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tools.errors import UserError
from tools.files import to_json, write_text
from tools.speech.transcripts import normalization
from wav2vec2.config import read_json

VOCABULARY_FILE = "vocab.json"
TOKENIZER_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
BLANK, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
CONTROLS = ("<s>", "</s>")
# The letters of English transcripts in the order of the checkpoints of LibriSpeech.
LIBRISPEECH = (BLANK, *CONTROLS, UNKNOWN, DELIMITER, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
UNKNOWN_CHARACTER = "\u2047"  # "⁇", what other vocabularies here print for an unknown symbol


class Vocabulary:
    """V symbols: characters, a word delimiter, the blank and a few that write nothing.

    Args:
        tokens: V different symbols in the order of their ids.
        blank: which of them is CTC's blank.
        unknown: which of them stands for what the vocabulary lacks; it may be missing.
        delimiter: which of them stands between words.

    Attributes:
        tokens: the symbols.
        surfaces: what each of them writes.
        normalize: gives a transcript the case of the letters, if they have but one.

    Raises:
        UserError: a symbol twice or of half a character, or no blank or delimiter.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        blank: str = BLANK,
        unknown: str = UNKNOWN,
        delimiter: str = DELIMITER,
    ):
        self.tokens = tuple(tokens)
        self.blank, self.unknown, self.delimiter = blank, unknown, delimiter
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self._ids) < len(self.tokens) or not {blank, delimiter} <= self._ids.keys():
            raise UserError.expected(
                f"a vocabulary of different symbols with {blank} and {delimiter}",
                f"{len(self._ids)} different ones of {len(self.tokens)}: {_some(self.tokens)}",
                "Correct the vocabulary",
            )
        try:
            "".join(self.tokens).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start : error.end])
            raise UserError.expected(
                "symbols of whole characters", half, "Correct the vocabulary"
            ) from error
        silent = {blank, *CONTROLS}
        self.surfaces = tuple("" if token in silent else token for token in self.tokens)
        for token, surface in ((delimiter, " "), (unknown, UNKNOWN_CHARACTER)):
            if token in self._ids:
                place = self._ids[token]
                self.surfaces = (*self.surfaces[:place], surface, *self.surfaces[place + 1 :])
        self.normalize = normalization(self.surfaces)

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_files() == other.to_files()

    __hash__ = None

    @property
    def blank_id(self) -> int:
        """Id of CTC's blank."""
        return self._ids[self.blank]

    @property
    def delimiter_id(self) -> int:
        """Id of the symbol between words."""
        return self._ids[self.delimiter]

    @property
    def unknown_id(self) -> int | None:
        """Id of what the vocabulary lacks, or None."""
        return self._ids.get(self.unknown)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, after `normalize`; see `ids`."""
        return self.ids(self.normalize(text))

    def ids(self, characters: str) -> list[int]:
        """Returns the id of each character; what the vocabulary lacks is the unknown symbol.

        Raises:
            UserError: it lacks some, and has no unknown symbol.
        """
        known = {**self._ids, " ": self.delimiter_id}
        ids = [known.get(x, self.unknown_id) for x in characters]
        if None in ids:
            missing = sorted({x for x in characters if x not in known})
            raise UserError.expected(
                f"a transcript of the characters {_some(self.surfaces)}",
                " ".join(missing),
                "Normalize the transcript, or add a symbol for unknown characters",
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of labels, without outer spaces; blanks add nothing."""
        return "".join(self.surfaces[x] for x in ids).strip(" ")

    def collapse(self, path: Iterable[int]) -> list[int]:
        """Returns the labels of a path of one symbol a frame: repeats once, blanks left out.

        Source: Graves et al., Connectionist temporal classification (2006), section 3.1.
        """
        return [int(x) for x, _ in groupby(path) if x != self.blank_id]

    def decode_path(self, path: Iterable[int]) -> str:
        """Returns the text of a path, such as the best symbol of each frame."""
        return self.decode(self.collapse(path))

    def to_files(self) -> dict[str, Any]:
        """Returns the contents of `vocab.json` and `tokenizer_config.json` by name."""
        present = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": self.unknown}
        return {
            VOCABULARY_FILE: self._ids,
            TOKENIZER_FILE: {
                "tokenizer_class": "Wav2Vec2CTCTokenizer",
                "pad_token": self.blank,
                "word_delimiter_token": self.delimiter,
                "do_lower_case": False,
                # A name that is not in the vocabulary would be added to it.
                **{key: token if token in self._ids else None for key, token in present.items()},
            },
        }


def vocabulary_of_letters(transcripts: Iterable[str]) -> Vocabulary:
    """Makes a vocabulary of the characters that transcripts hold, sorted, without controls."""
    letters = sorted({x for text in transcripts for x in text} - {" ", DELIMITER})
    return Vocabulary((BLANK, UNKNOWN, DELIMITER, *letters))


def load_vocabulary(folder: str | Path) -> Vocabulary:
    """Reads the vocabulary of a Hugging Face folder.

    The names of its special symbols are those of `tokenizer_config.json` where there is one, and
    symbols of `added_tokens.json` belong to it.

    Raises:
        UserError: no `vocab.json`, or not the ids 0 to V - 1 of V symbols.
    """
    folder = Path(folder)
    ids = read_json(folder / VOCABULARY_FILE)
    if (folder / ADDED_FILE).exists():
        ids |= {k: v for k, v in read_json(folder / ADDED_FILE).items() if k not in ids}
    settings = read_json(folder / TOKENIZER_FILE) if (folder / TOKENIZER_FILE).exists() else {}
    if not all(type(x) is int for x in ids.values()) or set(ids.values()) != set(range(len(ids))):
        raise UserError.expected(
            f"symbols with the ids 0 to {len(ids) - 1} in {folder / VOCABULARY_FILE}",
            _some(ids.values()),
            "Correct the file",
        )
    return Vocabulary(
        sorted(ids, key=ids.__getitem__),
        blank=_symbol(settings, "pad_token", BLANK),
        unknown=_symbol(settings, "unk_token", UNKNOWN),
        delimiter=_symbol(settings, "word_delimiter_token", DELIMITER),
    )


def save_vocabulary(vocabulary: Vocabulary, folder: str | Path) -> None:
    """Writes the files that `load_vocabulary` reads."""
    for name, content in vocabulary.to_files().items():
        text = to_json(content, ensure_ascii=False, indent=2)
        write_text(Path(folder) / name, f"{text}\n")


def _symbol(settings: Mapping[str, Any], key: str, default: str) -> str:
    """A name that is written bare, or with its properties."""
    value = settings.get(key)
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else default


def _some(items: Iterable[object], count: int = 40) -> str:
    items = [str(x) for x in items if x != ""]
    return " ".join(items[:count]) + (" ..." if len(items) > count else "")
