"""N-gram language models as arrays: a trie of n-grams with links to shorter contexts."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
MISSING_UNKNOWN = -100.0  # log10 probability of unknown words in a model without <unk>, as in KenLM
_FNV_START, _FNV_PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)


class Trie(NamedTuple):
    """N nodes: node 0 is the empty n-gram, nodes 1 to V the words, then longer n-grams by order.

    The children of a node are consecutive and sorted by word. M is the number of nodes that are
    shorter than the longest n-grams.

    Attributes:
        words: `[N]` int32, the last word of each n-gram.
        first_child: `[M + 1]` int32; the children of node i are `first_child[i]` to
            `first_child[i + 1] - 1`.
        shorter: `[N]` int32, the longest node that is this n-gram without its first words.
        log10_probability: `[N]` float32.
        log10_backoff: `[M]` float32.
    """

    words: np.ndarray
    first_child: np.ndarray
    shorter: np.ndarray
    log10_probability: np.ndarray
    log10_backoff: np.ndarray


class Words(NamedTuple):
    """The vocabulary of a model as a hash table.

    Attributes:
        text: uint8, UTF-8 text of all words.
        ends: `[V]` int64, the end of each word in `text`.
        slots: int32, word number or -1, at the word's hash modulo the (power of two) length, or at
            the next free slot.
    """

    text: np.ndarray
    ends: np.ndarray
    slots: np.ndarray


@compiled
def find_child(trie, node, word):
    """Returns the child of a node for a word, or -1."""
    if node == 0:
        return word + 1
    low, high = trie.first_child[node], trie.first_child[node + 1]
    end = high
    while low < high:
        middle = (low + high) // 2
        if trie.words[middle] < word:
            low = middle + 1
        else:
            high = middle
    return low if low < end and trie.words[low] == word else -1


@compiled
def next_word(trie, state, word):
    """Scores a word behind a context.

    Args:
        trie: the model.
        state: node of the context.
        word: number of the word.

    Returns:
        The log10 probability, and the node of the following context.
    """
    total = 0.0
    child = find_child(trie, state, word)
    while child < 0:
        total += trie.log10_backoff[state]
        state = trie.shorter[state]
        child = find_child(trie, state, word)
    total += trie.log10_probability[child]
    if child >= len(trie.log10_backoff):
        child = trie.shorter[child]
    return total, child


@compiled
def score_words(trie, state, words):
    """Returns the sum of the log10 probabilities of words behind a context."""
    total = 0.0
    for word in words:
        score, state = next_word(trie, state, word)
        total += score
    return total


@compiled
def hash_of(text, start, end):
    """Returns the FNV-1a hash of bytes."""
    value = _FNV_START
    for position in range(start, end):
        value = (value ^ np.uint64(text[position])) * _FNV_PRIME
    return value ^ (value >> np.uint64(29))


@compiled
def find_word(words, text, start, end):
    """Returns the number of the word `text[start:end]`, or -1."""
    mask = np.uint64(len(words.slots) - 1)
    slot = hash_of(text, start, end) & mask
    while words.slots[slot] >= 0:
        number = words.slots[slot]
        first = words.ends[number - 1] if number else 0
        if words.ends[number] - first == end - start:
            same = True
            for offset in range(end - start):
                if words.text[first + offset] != text[start + offset]:
                    same = False
                    break
            if same:
                return number
        slot = (slot + np.uint64(1)) & mask
    return -1


@compiled
def fill_slots(words, slots):
    """Writes the hash table; returns the number of a word that occurs twice, or -1."""
    mask = np.uint64(len(slots) - 1)
    start = 0
    for number, end in enumerate(words.ends):
        if find_word(words, words.text, start, end) >= 0:
            return number
        slot = hash_of(words.text, start, end) & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = number
        start = end
    return -1


def vocabulary_of(words: Sequence[bytes]) -> Words:
    """Makes the hash table of a vocabulary.

    Raises:
        ValueError: a word occurs twice; its argument is the number of the second one.
    """
    text = np.frombuffer(b"".join(words), np.uint8)
    ends = np.cumsum([len(word) for word in words], dtype=np.int64)
    slots = np.full(1 << (2 * len(words)).bit_length(), -1, np.int32)
    found = Words(read_only(text), read_only(ends), read_only(slots))
    twice = fill_slots(found, slots)
    if twice >= 0:
        raise ValueError(twice)
    return found


def read_only(array: np.ndarray) -> np.ndarray:
    """Returns a read-only view, also of a memory map, so that numba compiles for one type."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


class NgramModel:
    """An n-gram language model of words.

    A state is the number of a node: the longest context that the model knows. States are equal if
    the probabilities of all following words are equal.

    Args:
        trie: n-grams with their probabilities.
        words: vocabulary.
        order: length of the longest n-grams.
    """

    def __init__(self, trie: Trie, words: Words, order: int):
        self.trie, self.words, self.order = trie, words, order
        self._unknown = self._find(UNKNOWN)

    def __len__(self) -> int:
        """Returns the number of n-grams."""
        return len(self.trie.words) - 1

    def number_of(self, word: str) -> int:
        """Returns the number of a word, or that of `<unk>`."""
        found = self._find(word)
        return self._unknown if found < 0 else found

    def __contains__(self, word: str) -> bool:
        """Returns whether the vocabulary contains a word other than `<unk>`."""
        return self._find(word) not in (-1, self._unknown)

    def vocabulary(self) -> list[str]:
        """Returns all words, in the order of their numbers."""
        text, starts = self.words.text.tobytes(), [0, *self.words.ends.tolist()]
        return [text[start:end].decode() for start, end in pairwise(starts)]

    def start(self) -> int:
        """Returns the state at the start of a sentence."""
        begin = self._find(BEGIN)
        return begin + 1 if begin >= 0 and self.order > 1 else 0

    def score(self, state: int, word: str) -> tuple[float, int]:
        """Returns the log10 probability of a word behind a context, and the following state."""
        return next_word(self.trie, state, self.number_of(word))

    def score_sentence(self, sentence: str) -> float:
        """Returns the log10 probability of words and the end of the sentence."""
        numbers = [self.number_of(word) for word in (*sentence.split(), END)]
        return score_words(self.trie, self.start(), np.array(numbers, np.int32))

    def save(self, folder: Path) -> None:
        """Writes the arrays to an existing folder."""
        for name, array in self._arrays().items():
            np.save(folder / f"{name}.npy", array)
        np.save(folder / "order.npy", np.array([self.order]))

    @classmethod
    def load(cls, folder: Path) -> "NgramModel":
        """Opens saved arrays as memory maps.

        Raises:
            OSError: a file is missing.
            ValueError: a file is damaged.
        """

        def opened(name: str) -> np.ndarray:
            return read_only(np.load(folder / f"{name}.npy", mmap_mode="r"))

        trie, words = (kind(*map(opened, kind._fields)) for kind in (Trie, Words))
        return cls(trie, words, int(opened("order")[0]))

    def _arrays(self) -> dict[str, np.ndarray]:
        return self.trie._asdict() | self.words._asdict()

    def _find(self, word: str) -> int:
        text = read_only(np.frombuffer(word.encode("utf-8", "replace"), np.uint8))
        return find_word(self.words, text, 0, len(text))
