"""Language models of words in the form that compiled beam searches use (shallow fusion)."""

import mmap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tools.decoding.compiled import compiled
from tools.decoding.language_model import is_kenlm, load_kenlm, load_ngrams
from tools.decoding.ngrams import BEGIN, END, UNKNOWN, NgramModel, Trie, next_word, read_only
from tools.decoding.spelling import mixed
from tools.errors import UserError


class Table(NamedTuple):
    """Scores of words behind contexts that were asked before, as a hash table.

    Attributes:
        keys: int64, state and word of each slot; -1 for a free slot.
        scores: float64, log10 probability.
        states: int32, following state.
    """

    keys: np.ndarray
    scores: np.ndarray
    states: np.ndarray


@compiled
def find_slot(table, key):
    """Returns the slot of a key, or the free slot for it."""
    mask = len(table.keys) - 1
    slot = mixed(key, 0) & mask
    while table.keys[slot] >= 0 and table.keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@compiled
def fused_word(trie, table, state, word):
    """Scores a word behind a context, with a trie, or with a table if the trie is empty.

    Returns:
        Whether the answer is known, the log10 probability, and the following state.
    """
    if len(trie.words) > 1:
        score, following = next_word(trie, state, word)
        return True, score, np.int64(following)
    slot = find_slot(table, np.int64(state) << 32 | word)
    return table.keys[slot] >= 0, table.scores[slot], np.int64(table.states[slot])


def _new_table(size: int) -> Table:
    return Table(np.full(size, -1, np.int64), np.zeros(size), np.zeros(size, np.int32))


class Fusion:
    """An n-gram model for a compiled search. Without a model every word has the probability 1.

    Args:
        model: the n-gram model.

    Attributes:
        trie: n-grams of the model; empty if `table` holds the scores.
        table: scores of the words that were asked so far.
        order: length of the longest n-grams.
        start: state at the start of a sentence.
        unknown: number of the word `<unk>`.
        end: number of the word `</s>`.
        words: all words in the order of their numbers, with empty texts for reserved words.
    """

    def __init__(self, model: NgramModel | None = None):
        self.table, self.order, self.start, self.unknown, self.end = _new_table(2), 1, 0, 0, 0
        integers = read_only(np.zeros(1, np.int32)), read_only(np.zeros(2, np.int32))
        floats = read_only(np.zeros(1, np.float32))
        self.trie = Trie(integers[0], integers[1], integers[0], floats, floats)
        self.words: list[str] = []
        if model is not None:
            self.trie, self.order, self.start = model.trie, model.order, model.start()
            self.unknown, self.end = model.number_of(UNKNOWN), model.number_of(END)
            self.words = _without_reserved(model.vocabulary())

    def answer(self, questions: np.ndarray) -> None:
        """Adds the scores of words behind states to the table.

        Args:
            questions: `[N]` int64, state and word as keys of the table.
        """


class KenlmFusion(Fusion):
    """A `kenlm.Model` for a compiled search, which asks it each word behind each state once.

    Args:
        model: KenLM's model.
        vocabulary: its words in any order, with `<unk>`.
    """

    def __init__(self, model: Any, vocabulary: Sequence[str]):
        super().__init__()
        import kenlm

        self._model, self._new_state, self._lock = model, kenlm.State, threading.Lock()
        self._texts, self.words = list(vocabulary), _without_reserved(vocabulary)
        self.order, self.unknown = model.order, self._texts.index(UNKNOWN)
        self.end = self._texts.index(END) if END in self._texts else self.unknown
        start = kenlm.State()
        model.BeginSentenceWrite(start)
        self._states, self._numbers, self._num_answers = [start], {start: 0}, 0

    def answer(self, questions: np.ndarray) -> None:
        """See `Fusion.answer`."""
        with self._lock:
            for key in questions.tolist():
                state, word = key >> 32, key & 0xFFFFFFFF
                following = self._new_state()
                text = "" if word == self.unknown else self._texts[word]
                score = self._model.BaseScore(self._states[state], text, following)
                number = self._numbers.setdefault(following, len(self._states))
                if number == len(self._states):
                    self._states.append(following)
                slot = find_slot(self.table, key)
                self._num_answers += self.table.keys[slot] < 0
                self.table.scores[slot], self.table.states[slot] = score, number
                self.table.keys[slot] = key  # last: another thread may search at the same time
                if 2 * self._num_answers > len(self.table.keys):
                    self.table = self._larger()

    def _larger(self) -> Table:
        larger = _new_table(2 * len(self.table.keys))
        for index in np.flatnonzero(self.table.keys >= 0):
            slot = find_slot(larger, self.table.keys[index])
            for array, values in zip(larger, self.table, strict=True):
                array[slot] = values[index]
        return larger


def open_fusion(path: str | Path) -> Fusion:
    """Opens an ARPA file (also .gz), or a file in KenLM's binary format.

    Raises:
        UserError: the file cannot be read, or the package kenlm is needed and missing.
    """
    if is_kenlm(path):
        return KenlmFusion(load_kenlm(path), words_of_kenlm(path))
    return Fusion(load_ngrams(path))


def words_of_kenlm(path: str | Path) -> list[str]:
    """Returns the words that KenLM's `build_binary` keeps at the end of a binary file.

    Raises:
        UserError: the file has no words.
    """
    start = f"{UNKNOWN}\0".encode()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.rfind(start)
        words = content[place:].rstrip(b"\0").split(b"\0") if place >= 0 else []
    try:
        return [word.decode() for word in words if word] if words else _refuse(path)
    except UnicodeDecodeError:
        return _refuse(path)


def _refuse(path: str | Path) -> list[str]:
    raise UserError.expected(
        "a binary language model with its words",
        f"{path} without them",
        "Build it again with KenLM's build_binary, or use the ARPA file",
    )


def _without_reserved(words: Sequence[str]) -> list[str]:
    return ["" if word in (UNKNOWN, BEGIN, END) else word for word in words]
