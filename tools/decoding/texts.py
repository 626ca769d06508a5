"""What beam searches know about the texts that symbols write: words, and their scores."""

from collections.abc import Sequence

import numpy as np

from tools.decoding import text_kernel as kernel
from tools.decoding.fusion import Fusion
from tools.decoding.hot_graph import hot_graph, start_node
from tools.decoding.hotwords import HotWord
from tools.decoding.options import BeamSearch
from tools.decoding.spelling import Alphabet
from tools.errors import UserError

_WORD_MARK = "\u2581"  # begins words in SentencePiece's subwords
_MOST_NAMED = 40  # letters in a message
_MIN_LETTERS = 5  # words of one letter by which a model of letters is recognized
_NUM_QUESTIONS = 256  # words asked of a language model at once


def _part_of_a_word(words: Sequence[str], letters: str, has_spaces: bool) -> str:
    """Describes a word of a language model that is a part of a word; empty if there is none."""
    if _WORD_MARK not in letters:
        for word in words:
            if _WORD_MARK in word:
                return f"{word}, a subword of SentencePiece"
            if "#" not in letters and word.startswith("##") and word[2:].isalpha():
                return f"{word}, a subword of WordPiece"
            if "@" not in letters and word.endswith("@@") and word[:-2].isalpha():
                return f"{word}, a subword of byte-pair encoding"
    written = [word for word in words if word]
    if has_spaces and len(written) >= _MIN_LETTERS and all(map(_is_letter, written)):
        return f"{' '.join(written[:5])}, single letters"
    return ""


def _is_letter(word: str) -> bool:
    return len(word) == 1 and word.isalpha()


class Texts:
    """Scores of the texts that symbols write, for compiled loops.

    Args:
        surfaces: text that each of V symbols adds. Symbols with an empty text act like the blank.
        blank: index of the blank symbol.
        options: width, weights and limits.
        fusion: language model; None for none.
        hot_words: phrases with a higher score.
        keeps_history: see `tools.decoding.ctc_beam.CtcBeamSearch`.

    Attributes:
        silent: indices of the symbols without text.
        writing: `[K]` indices of the other ones. In compiled loops they are the symbols 1 to K,
            and 0 is no symbol.

    Raises:
        UserError: no word of the language model consists of the letters of the symbols, or its
            words are subwords.
    """

    def __init__(
        self,
        surfaces: Sequence[str],
        blank: int,
        options: BeamSearch,
        fusion: Fusion | None = None,
        *,
        hot_words: Sequence[HotWord] = (),
        keeps_history: bool = False,
    ):
        self._fusion = Fusion() if fusion is None else fusion
        self.silent = [i for i, text in enumerate(surfaces) if not text or i == blank]
        self.writing = np.array([i for i, x in enumerate(surfaces) if x and i != blank], np.int64)
        written = [surfaces[i] for i in self.writing]
        alphabet = Alphabet(written)
        self._symbols = alphabet.symbols(written)
        self._spelling, num_words = alphabet.spell(self._fusion.words)
        if fusion is not None and num_words == 0:
            words = [word for word in fusion.words if word]
            letters = alphabet.letters[:_MOST_NAMED]
            if len(alphabet.letters) > _MOST_NAMED:
                letters += f" and {len(alphabet.letters) - _MOST_NAMED} others"
            raise UserError.expected(
                f"a language model with words of the letters {letters}",
                f"{' '.join(words[:5]) or 'no words'}",
                "Train it on text in upper or lower case, like the vocabulary of the model",
            )
        if part := _part_of_a_word(self._fusion.words, alphabet.letters, " " in "".join(written)):
            raise UserError.expected(
                "a language model of whole words",
                part,
                "Train it on text with spaces between the words",
            )
        self._hot = hot_graph(hot_words, written, alphabet)
        self._hot_start = start_node(self._hot)
        has_weight = options.weight != 0.0
        self._settings = kernel.Settings(
            width=options.width,
            token_min=options.token_min,
            beam_prune=options.beam_prune,
            num_recent=max(1, self._fusion.order - 1) if has_weight else 1,
            prunes_history=not keeps_history,
            has_model=fusion is not None and has_weight,
            weight=options.weight,
            word_bonus=options.word_bonus,
            unknown_offset=options.unknown_offset if has_weight else 0.0,
            unknown=self._fusion.unknown,
            end=self._fusion.end,
        )

    def known(self) -> kernel.Known:
        """Returns the arrays for compiled loops. Ask again after `answer`."""
        return kernel.Known(
            symbols=self._symbols,
            spelling=self._spelling,
            hot=self._hot,
            trie=self._fusion.trie,
            table=self._fusion.table,
            settings=self._settings,
        )

    def answer(self, scratch: kernel.Scratch) -> bool:
        """Answers the questions of a compiled loop; returns whether there were any."""
        num_questions = int(scratch.counts[kernel.NUM_QUESTIONS])
        if num_questions:
            self._fusion.answer(scratch.questions[:num_questions])
        return num_questions > 0

    def scratch(self, size: int) -> kernel.Scratch:
        """Returns arrays for a number of candidates."""
        slots = 1 << (2 * size).bit_length()
        return kernel.Scratch(
            integers=np.empty((size, kernel.RECENT + self._settings.num_recent), np.int64),
            floats=np.empty((size, kernel.NUM_FLOATS)),
            symbols=np.empty(size, np.int64),
            totals=np.empty(size),
            table=np.empty(slots, np.int64),
            stamps=np.zeros(slots, np.int64),
            questions=np.empty(_NUM_QUESTIONS, np.int64),
            counts=np.zeros(2, np.int64),
        )

    def start(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the integers and floats of empty texts."""
        integers = np.zeros((size, kernel.RECENT + self._settings.num_recent), np.int64)
        integers[:, kernel.STATE], integers[:, kernel.HOT] = self._fusion.start, self._hot_start
        return integers, np.zeros((size, kernel.NUM_FLOATS))

    def extended(
        self, integers: np.ndarray, floats: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns texts `[N, I]` and `[N, F]` behind other tokens `[N]`, and their scores `[N]`."""
        scratch = self.scratch(1)
        symbols = np.searchsorted(self.writing, tokens) + 1
        is_silent = np.isin(tokens, self.silent)
        symbols[is_silent] = 0
        while True:
            texts = integers.copy(), floats.copy()
            scores = kernel.extend_texts(texts, symbols, self.known(), scratch)
            if not self.answer(scratch):
                return *texts, scores

    def ended(self, integers: np.ndarray, floats: np.ndarray) -> np.ndarray:
        """Returns the scores `[N]` of whole texts."""
        scratch = self.scratch(1)
        while True:
            texts = integers.copy(), floats.copy()
            scores = kernel.end_texts(texts, self.known(), scratch)
            if not self.answer(scratch):
                return scores
