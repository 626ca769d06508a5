"""Opens n-gram language models of words for beam searches."""

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tools.decoding.arpa import read_arpa
from tools.decoding.ngrams import NgramModel
from tools.errors import UserError
from tools.files import new_folder, one_at_a_time, user_cache
from tools.hashing import file_hash

KENLM_START = b"mmap lm http://kheafield.com/code"
_FORMAT = 1  # of the cached arrays; another number makes them again


def load_ngrams(path: str | Path) -> NgramModel:
    """Opens the n-gram model of an ARPA file, which gzip may have compressed.

    The first call for a file's content reads the text and keeps the arrays in the user's cache.
    Later calls open them as memory maps. Without a writable cache every call reads the text.

    Raises:
        UserError: the file cannot be read, is cut short, or is inconsistent.
    """
    path = Path(path)
    try:
        content = file_hash(path)
    except OSError as error:
        reason = f"{path}: {error.strerror or error}"
        raise UserError.expected("an ARPA file", reason, "Correct the path") from error
    folder = user_cache() / "language_models" / f"{content[:32]}-{_FORMAT}"
    with contextlib.suppress(OSError, ValueError):
        return NgramModel.load(folder)
    if path.stat().st_size > 1 << 24:
        print(f"reading the language model {path}", file=sys.stderr)
    model = read_arpa(path)
    try:
        with one_at_a_time(folder), new_folder(folder, replace=True) as unfinished:
            model.save(unfinished)
    except UserError as error:
        print(f"the language model is not kept in the cache: {error}", file=sys.stderr)
    return model


def load_kenlm(path: str | Path) -> Any:
    """Opens a model in KenLM's binary format with the package kenlm.

    Returns:
        A `kenlm.Model`, with `BaseScore(state, word, next_state)` and `order`.

    Raises:
        UserError: KenLM is not installed, or the file is not a KenLM model.
    """
    kenlm = optional_package("kenlm")
    try:
        return kenlm.Model(str(path))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError.expected(
            "an n-gram model in ARPA or KenLM's binary format",
            f"{path}: {reason}",
            "Correct the path or the file",
        ) from error


def optional_package(name: str) -> ModuleType:
    """Imports and returns a package of the extra `beam`.

    Raises:
        UserError: the package is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise UserError.expected(
            f"the package {name} for language models in KenLM's binary format",
            "none",
            "Run `bash run_scripts/setup.sh --beam`, or use an ARPA file",
        )
    return importlib.import_module(name)


def is_kenlm(path: str | Path) -> bool:
    """Returns whether a file has KenLM's binary format; False if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(KENLM_START)) == KENLM_START
    except OSError:
        return False
