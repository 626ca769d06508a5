"""Beam search over CTC logits with an n-gram language model of words, using pyctcdecode."""

import numpy as np

from tools.errors import UserError
from tools.speech.language_model import (
    BeamSearch,
    load_ngram,
    optional_package,
    words_of_arpa,
)

_SILENT = -1e4  # log-probability of an impossible symbol


class PrefixBeamSearch:
    """CTC prefix beam search with an optional n-gram language model of words.

    Args:
        surfaces: V texts; entry i is the text that symbol i adds.
        blank: index of the blank symbol.
        beam: beam width and language model.

    Raises:
        UserError: a required package is missing, or the language model cannot be read.

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
        """Returns the text of logits `[T, V]`."""
        if len(logits) == 0:
            return ""
        scores = logits - logits.max(axis=-1, keepdims=True)
        scores = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        # Symbols without text have the same effect as the blank, so add up their probabilities.
        nothing = np.logaddexp.reduce(scores[:, [self._blank, *self._silent]], axis=-1)
        columns = np.concatenate([nothing[:, None], scores[:, self._writing]], axis=-1)
        return self._decoder.decode(np.maximum(columns, _SILENT), beam_width=self._width).strip()


def _spelled(path: str, letters: set[str]) -> list[str] | None:
    """Returns the words of a language model that consist of the letters of the vocabulary."""
    words = words_of_arpa(path)
    spelled = None if words is None else [word for word in words if letters.issuperset(word)]
    if spelled == []:
        raise UserError.expected(
            f"a language model with words of the letters {''.join(sorted(letters)).strip()}",
            f"{path}: {' '.join(words[:5])}",
            "Train it on text in upper or lower case, like the vocabulary of the model",
        )
    return spelled
