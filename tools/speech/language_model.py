"""N-gram language models (KenLM) for beam search with any recognizer."""

import importlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tools.errors import UserError

MIN_BEAM_WIDTH, MAX_BEAM_WIDTH = 1, 2000


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """Options of a beam search.

    Attributes:
        width: number of hypotheses kept after each step, 1 to 2000.
        language_model: path of an n-gram model over words, in ARPA or KenLM's binary format; None
            to search without a language model.
        weight: factor of the language model's log-probabilities.
        word_bonus: added to the log-probability for each word, to compensate that both models
            prefer fewer words.
    """

    width: int = 100
    language_model: str | None = None
    weight: float = 0.5
    word_bonus: float = 1.5

    def __post_init__(self):
        if not math.isfinite(self.weight) or not math.isfinite(self.word_bonus):
            raise UserError.expected(
                "finite numbers for --lm_weight and --word_bonus",
                f"{self.weight} and {self.word_bonus}",
                "Correct the flags",
            )
        if not MIN_BEAM_WIDTH <= self.width <= MAX_BEAM_WIDTH:
            raise UserError.expected(
                f"--beam_width of {MIN_BEAM_WIDTH} to {MAX_BEAM_WIDTH}, or 0 for greedy decoding",
                self.width,
                "Correct the flag",
            )


def optional_package(name: str) -> ModuleType:
    """Imports and returns a package of the extra `beam`.

    Raises:
        UserError: the package is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise UserError.expected(
            f"the package {name} for beam search", "none", "Run `bash run_scripts/setup.sh --beam`"
        )
    return importlib.import_module(name)


def load_ngram(path: str | Path) -> Any:
    """Loads an n-gram model in ARPA or KenLM's binary format.

    Returns:
        A `kenlm.Model`, with `BaseScore(state, word, next_state)`, `order` and `score(sentence)`.

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


def words_of_arpa(path: str | Path) -> list[str] | None:
    """Returns the words (1-grams) of an ARPA file; None for a binary file, which lacks them."""
    words, inside = [], False
    with Path(path).open("rb") as file:
        if file.read(6).lstrip()[:5] != b"\\data":
            return None
        for raw in file:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            if line.startswith("\\"):
                if inside:
                    break
                inside = line == "\\1-grams:"
            elif inside and (fields := line.split()):
                words.append(fields[1])
    return words
