"""Reads and writes the vocabulary files of a Hugging Face folder."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.config.values import show
from tools.errors import UserError
from tools.files import to_json, write_text
from tools.weights.folders import read_json
from wav2vec2.config import CONFIG_FILE, MAX_SIZE
from wav2vec2.vocabulary import BLANK, CONTROLS, DELIMITER, UNKNOWN, Vocabulary, some

logger = logging.getLogger(__name__)

VOCABULARY_FILE = "vocab.json"
TOKENIZER_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
PHONEME_TOKENIZER = "Wav2Vec2PhonemeCTCTokenizer"
_SIZE = "num_logits"  # number of logits of the model; the tokenizers of Hugging Face ignore it
_SPACE = "replace_word_delimiter_char"  # text of the word delimiter
_NAMES = {"bos_token": CONTROLS[0], "eos_token": CONTROLS[1], "unk_token": UNKNOWN}


def load_vocabulary(folder: str | Path, num_logits: int | None = None) -> Vocabulary:
    """Reads the vocabulary of a Hugging Face folder.

    `tokenizer_config.json` and `special_tokens_map.json` define the special symbols. Added symbols
    are part of the vocabulary. Ids without a symbol are allowed.

    Args:
        folder: Hugging Face folder, which contains at least `vocab.json`.
        num_logits: number of logits of the model. Symbols with larger ids are left out, and missing
            ids are added without a symbol. None: the largest id determines the number.

    Raises:
        UserError: `vocab.json` is missing or is not a vocabulary with a blank; this project wrote
            it for a model with another number of logits; or words are not separated by a space.

    Source: transformers 5.23.0, Wav2Vec2CTCTokenizer and Wav2Vec2PhonemeCTCTokenizer.
    """
    folder = Path(folder)
    settings = _settings(folder)
    ids = _of_language(read_json(folder / VOCABULARY_FILE), settings, folder)
    ids |= {k: v for k, v in _added(folder, settings).items() if k not in ids}
    numbers = ids.values()
    if not all(type(x) is int and 0 <= x < MAX_SIZE for x in numbers) or not ids:
        raise UserError.expected(
            f"symbols with ids of 0 to {MAX_SIZE - 1} in {folder / VOCABULARY_FILE}",
            some(map(show, numbers)) or "none",
            "Correct the file",
        )
    by_number = {number: token for token, number in ids.items()}
    if len(by_number) < len(ids):
        twice = [token for token, number in ids.items() if by_number[number] != token]
        raise UserError.expected(
            f"one symbol for each id in {folder / VOCABULARY_FILE}",
            f"others with the id of {some(twice)}",
            "Correct the file",
        )
    written = settings.get(_SIZE)  # present only in files of this project
    if None not in (written, num_logits) and written != num_logits:
        raise UserError.expected(
            f"{num_logits} symbols in {folder / VOCABULARY_FILE}, as many as the model has logits",
            show(written),
            "Use the vocabulary of the model",
        )
    num_logits = written if num_logits is None else num_logits
    size = max(numbers) + 1 if num_logits is None else num_logits
    tokens = [by_number.get(number) for number in range(size)]
    _tell_difference(ids, tokens, folder)
    phones = settings.get("tokenizer_class") == PHONEME_TOKENIZER
    if not phones and settings.get(_SPACE, " ") != " ":
        raise UserError.expected(
            f'a {_SPACE} of " " in {folder / TOKENIZER_FILE}',
            show(settings[_SPACE]),
            "Select another model",
        )
    delimiter = _symbol(settings, "word_delimiter_token", None if phones else DELIMITER)
    if delimiter not in tokens and not phones:
        delimiter = " "
    return Vocabulary(
        tokens,
        _symbol(settings, "pad_token", BLANK) or BLANK,
        _symbol(settings, "unk_token", UNKNOWN) or UNKNOWN,
        delimiter if delimiter in tokens else None,
        controls=(*CONTROLS, *(_symbol(settings, key, "") for key in ("bos_token", "eos_token"))),
        phones=phones,
        lower=not phones and settings.get("do_lower_case") is True,
    )


def _tell_difference(ids: Mapping[str, int], tokens: list[str | None], folder: Path) -> None:
    """Logs the symbols without a logit and the number of logits without a symbol."""
    beyond = [token for token in ids if token not in tokens and token not in CONTROLS]
    if beyond:
        logger.warning("%s: symbols left out, since they have no logit: %s", folder, some(beyond))
    if None in tokens:
        logger.warning("%s: logits without a symbol: %d", folder, tokens.count(None))


def vocabulary_files(vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the contents of `vocab.json` and `tokenizer_config.json` by name."""
    present = dict(zip(_NAMES, (*CONTROLS, vocabulary.unknown), strict=True))
    ids = vocabulary.token_ids
    settings = {
        "tokenizer_class": PHONEME_TOKENIZER if vocabulary.phones else "Wav2Vec2CTCTokenizer",
        "pad_token": vocabulary.blank,
        "word_delimiter_token": vocabulary.delimiter,
        "do_lower_case": vocabulary.lower,
        _SIZE: len(vocabulary),
        # Hugging Face would add names that are not in the vocabulary to it.
        **{key: token if token in ids else None for key, token in present.items()},
    }
    if vocabulary.phones:
        settings |= {"phone_delimiter_token": " ", "do_phonemize": False}
    return {VOCABULARY_FILE: ids, TOKENIZER_FILE: settings}


def save_vocabulary(vocabulary: Vocabulary, folder: str | Path) -> None:
    """Writes the files that `load_vocabulary` reads."""
    for name, content in vocabulary_files(vocabulary).items():
        text = to_json(content, ensure_ascii=False, indent=2)
        write_text(Path(folder) / name, f"{text}\n")


def _settings(folder: Path) -> dict[str, Any]:
    """Returns the settings of the tokenizer, which are in up to three files."""

    def content(name: str) -> dict[str, Any]:
        return read_json(folder / name) if (folder / name).exists() else {}

    settings = content(TOKENIZER_FILE)
    if "added_tokens_decoder" not in settings:  # files with this key contain all names
        settings |= content(SPECIAL_FILE)
    if not settings.get("tokenizer_class"):
        settings["tokenizer_class"] = content(CONFIG_FILE).get("tokenizer_class")
    return settings


def _of_language(content: Mapping, settings: Mapping, folder: Path) -> dict[str, Any]:
    """Returns the ids by symbol of a vocabulary; of one per language, those of `target_lang`."""
    languages = [k for k, x in content.items() if isinstance(x, Mapping)]
    if not languages:
        return dict(content)
    language = settings.get("target_lang")
    if language not in languages:
        raise UserError.expected(
            f"the target_lang of {folder / TOKENIZER_FILE} among the languages of "
            f"{VOCABULARY_FILE}: {some(languages, 12)}",
            show(language),
            "Set target_lang to one of them",
        )
    return dict(content[language])


def _added(folder: Path, settings: Mapping) -> dict[str, Any]:
    """Returns the ids of symbols that are added to those of `vocab.json`."""
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        return {
            x["content"]: int(number)
            for number, x in decoder.items()
            if isinstance(x, Mapping) and isinstance(x.get("content"), str) and number.isdecimal()
        }
    return read_json(folder / ADDED_FILE) if (folder / ADDED_FILE).exists() else {}


def _symbol(settings: Mapping[str, Any], key: str, default: str | None) -> str | None:
    """Returns the name of a special symbol, written as text or as an object with properties.

    Returns the default if the key is missing.
    """
    value = settings.get(key, default)
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else None
