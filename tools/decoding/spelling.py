"""Words as tries of characters, and the characters of symbols, for compiled searches."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled
from tools.decoding.ngrams import read_only

SPACE = 0  # number of the character that separates words
_CHARACTER_BITS = 21
_MIXING = -7046029254386353131  # 2^64 divided by the golden ratio, as a signed number


class Spelling(NamedTuple):
    """A trie of the characters of words; node 0 is the empty text.

    Attributes:
        keys: int64, node and character of each slot of a hash table; -1 for a free slot.
        children: int32, the following node of each slot.
        words: int32, number of the word that ends at each node, or -1.
    """

    keys: np.ndarray
    children: np.ndarray
    words: np.ndarray


class Symbols(NamedTuple):
    """Characters of the texts that symbols add. Symbol 0 adds nothing.

    Attributes:
        characters: int32, numbers of all characters.
        starts: `[K + 1]` int32, the first character of each symbol in `characters`.
    """

    characters: np.ndarray
    starts: np.ndarray


@compiled
def mixed(value, addition):
    """Returns a hash of a hash and a number."""
    value = (value ^ (addition + 1)) * _MIXING
    return value ^ (value >> 29)


@compiled
def following(keys, children, node, character):
    """Returns the node of a `Spelling` behind another character, or -1 if no word continues so."""
    if node < 0:
        return -1
    mask = len(keys) - 1
    key = (np.int64(node) << _CHARACTER_BITS) | character
    slot = mixed(key, 0) & mask
    while keys[slot] >= 0:
        if keys[slot] == key:
            return children[slot]
        slot = (slot + 1) & mask
    return -1


@compiled
def _fill(characters, ends, spelling):
    """Adds the words whose characters are all known; returns the number of nodes and of words."""
    mask = len(spelling.keys) - 1
    num_nodes, num_words, start = 1, 0, 0
    for number, end in enumerate(ends):
        first, start = start, end
        is_known = end > first
        for position in range(first, end):
            is_known = is_known and characters[position] > SPACE
        if not is_known:
            continue
        num_words += 1
        node = 0
        for position in range(first, end):
            key = (np.int64(node) << _CHARACTER_BITS) | characters[position]
            slot = mixed(key, 0) & mask
            while spelling.keys[slot] >= 0 and spelling.keys[slot] != key:
                slot = (slot + 1) & mask
            if spelling.keys[slot] < 0:
                spelling.keys[slot] = key
                spelling.children[slot] = num_nodes
                spelling.words[num_nodes] = -1
                num_nodes += 1
            node = spelling.children[slot]
        spelling.words[node] = number
    return num_nodes, num_words


@compiled
def _fill_table(edges, keys, children):
    mask = len(keys) - 1
    for index in range(len(edges)):
        key = (edges[index, 0] << _CHARACTER_BITS) | edges[index, 1]
        slot = mixed(key, 0) & mask
        while keys[slot] >= 0:
            slot = (slot + 1) & mask
        keys[slot], children[slot] = key, edges[index, 2]


def character_table(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hash table of a graph of characters, for `following`.

    Args:
        edges: `[E, 3]` int64: a node, a character, and the following node.
    """
    size = 1 << (2 * (len(edges) + 1)).bit_length()
    keys, children = np.full(size, -1, np.int64), np.zeros(size, np.int32)
    _fill_table(edges, keys, children)
    return keys, children


class Alphabet:
    """Numbers of the characters that the symbols of a model write.

    Args:
        surfaces: text of each symbol.

    Attributes:
        letters: all characters other than the space.
    """

    def __init__(self, surfaces: Sequence[str]):
        self.letters = "".join(sorted({x for text in surfaces for x in text} - {" "}))
        self._points = np.array([*map(ord, self.letters)], np.int64)

    def symbols(self, surfaces: Sequence[str]) -> Symbols:
        """Returns the characters of texts of symbols; the result has an empty one in front."""
        starts = np.cumsum([0, 0, *map(len, surfaces)], dtype=np.int32)
        return Symbols(read_only(self.numbers_of("".join(surfaces))), read_only(starts))

    def spell(self, words: Sequence[str]) -> tuple[Spelling, int]:
        """Returns the trie of those words that consist of letters of the alphabet.

        Args:
            words: texts without spaces; the empty text is left out.

        Returns:
            The trie, and the number of its words.
        """
        characters = self.numbers_of("".join(words))
        ends = np.cumsum([len(word) for word in words], dtype=np.int64)
        size = len(characters) + 1
        spelling = Spelling(
            keys=np.full(1 << (2 * size).bit_length(), -1, np.int64),
            children=np.zeros(1 << (2 * size).bit_length(), np.int32),
            words=np.full(size, -1, np.int32),
        )
        num_nodes, num_words = _fill(characters, ends, spelling)
        spelling = spelling._replace(words=spelling.words[:num_nodes])
        return Spelling(*map(read_only, spelling)), num_words

    def numbers_of(self, text: str) -> np.ndarray:
        """Returns the numbers of the characters of a text; -1 for those outside the alphabet."""
        return self._numbers(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32))

    def _numbers(self, points: np.ndarray) -> np.ndarray:
        """Returns 0 for a space, 1 and more for letters, and -1 for other characters."""
        place = np.searchsorted(self._points, points)
        known = place < len(self._points)
        known[known] = self._points[place[known]] == points[known]
        return np.where(points == 32, SPACE, np.where(known, place + 1, -1)).astype(np.int32)
