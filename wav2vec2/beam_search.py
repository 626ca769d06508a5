"""Beam search over CTC logits with an n-gram model of words, by way of pyctcdecode."""

import numpy as np

from tools.errors import UserError
from tools.speech.language_model import (
    BeamSearch,
    load_ngram,
    optional_package,
    words_of_arpa,
)

_SILENT = -1e4  # a log-probability of what cannot be


class PrefixBeamSearch:
    """A prefix beam search with an n-gram model of words.

    Args:
        surfaces: the text that each symbol adds.
        blank: index of the blank symbol.
        beam: how to search.

    Raises:
        UserError: a package for the search is missing, or its language model cannot be read.

    Source: pyctcdecode 0.5.0.
    """

    def __init__(self, surfaces: list[str], blank: int, beam: BeamSearch):
        library = optional_package("pyctcdecode")
        self._width = beam.width
        self._blank = blank
        self._silent = [i for i, text in enumerate(surfaces) if not text and i != blank]
        self._writing = [i for i, text in enumerate(surfaces) if text]
        alphabet = library.Alphabet.build_alphabet(["", *(surfaces[i] for i in self._writing)])
        model = None
        if beam.language_model is not None:
            ngram = load_ngram(beam.language_model)
            words = _spelled(beam.language_model, set("".join(surfaces)))
            model = library.LanguageModel(ngram, words, alpha=beam.weight, beta=beam.word_bonus)
        self._decoder = library.BeamSearchDecoderCTC(alphabet, model)

    def __call__(self, logits: np.ndarray) -> str:
        """Gives the text that the search finds in `[T, V]`."""
        if len(logits) == 0:
            return ""
        scores = logits - logits.max(axis=-1, keepdims=True)
        scores = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        # What writes nothing is as good as a blank.
        nothing = np.logaddexp.reduce(scores[:, [self._blank, *self._silent]], axis=-1)
        columns = np.concatenate([nothing[:, None], scores[:, self._writing]], axis=-1)
        return self._decoder.decode(np.maximum(columns, _SILENT), beam_width=self._width).strip()


def _spelled(path: str, letters: set[str]) -> list[str] | None:
    """The words of a language model that the recognizer's letters can spell."""
    words = words_of_arpa(path)
    spelled = None if words is None else [word for word in words if letters.issuperset(word)]
    if spelled == []:
        raise UserError.expected(
            f"a language model of words in the letters {''.join(sorted(letters)).strip()}",
            f"{path}: {' '.join(words[:5])}",
            "Make it of text in the case of the model's vocabulary",
        )
    return spelled
