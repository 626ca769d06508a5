"""Texts of CTC logits, whatever runtime made them: greedily, or by a beam search."""

from collections.abc import Iterable, Mapping
from itertools import groupby

import numpy as np

from tools.errors import UserError
from tools.speech.language_model import (
    BeamSearch,
    load_ngram,
    optional_package,
    words_of_arpa,
)
from tools.speech.timestamps import Piece
from tools.speech.transcripts import normalization

_SILENT = -1e4  # a log-probability of what cannot be


class Decoder:
    """Decodes by what an export says of itself.

    Args:
        pipeline: `pipeline.json` of the model.
        beam: how to search; None: only greedily.

    Attributes:
        normalize: gives a transcript the case of the texts, if they have but one.

    Raises:
        UserError: a package for the search is missing, or its language model cannot be read.
    """

    def __init__(self, pipeline: Mapping, beam: BeamSearch | None = None):
        self.blank = pipeline["blank"]
        self.surfaces: list[str] = pipeline["vocabulary"]["surfaces"]
        self.normalize = normalization(self.surfaces)
        self._hop_samples = pipeline["hop_samples"]
        self._window_samples = pipeline["receptive_field_samples"]
        self._rate_hz = pipeline["sample_rate_hz"]
        self._search = None if beam is None else _Search(self.surfaces, self.blank, beam)

    def path(self, logits: np.ndarray) -> np.ndarray:
        """The best symbol of each frame, `[T]`, of `[T, V]`."""
        return logits.argmax(axis=-1).astype(np.int32)

    def labels(self, path: Iterable[int]) -> list[tuple[int, int, int]]:
        """Lists the symbols of a path: repeats once, blanks left out.

        Returns:
            Symbol, first frame, and the frame behind the last one, of each.

        Source: Graves et al., Connectionist temporal classification (2006), section 3.1.
        """
        found, frame = [], 0
        for symbol, run in groupby(path):
            start, frame = frame, frame + sum(1 for _ in run)
            if symbol != self.blank:
                found.append((int(symbol), start, frame))
        return found

    def text(self, path: Iterable[int]) -> str:
        """The text of a path."""
        return "".join(self.surfaces[symbol] for symbol, _, _ in self.labels(path)).strip(" ")

    def pieces(self, path: Iterable[int]) -> list[Piece]:
        """What the symbols of a path write, and when.

        A frame stands for the hop in the middle of the samples that it sees.
        """
        margin = (self._window_samples - self._hop_samples) / 2

        def seconds(frame: int) -> float:
            return (frame * self._hop_samples + margin) / self._rate_hz

        return [
            Piece(self.surfaces[symbol], seconds(start), seconds(end))
            for symbol, start, end in self.labels(path)
        ]

    @property
    def searches(self) -> bool:
        """Whether there is a beam search."""
        return self._search is not None

    def beam_text(self, logits: np.ndarray) -> str:
        """The text that the beam search finds in `[T, V]`."""
        return self._search(logits)


class _Search:
    """A prefix beam search with an n-gram model of words.

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
