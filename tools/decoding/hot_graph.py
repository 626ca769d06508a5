"""Scores of hot words while a text grows, as a graph of characters for compiled searches."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled
from tools.decoding.hotwords import HotWord, Spellings
from tools.decoding.ngrams import read_only
from tools.decoding.spelling import SPACE, Alphabet, Symbols, character_table, following

_NUM_CACHED = 1024  # nodes whose scores of all symbols `HotScores` keeps


class HotGraph(NamedTuple):
    """An automaton of N nodes over characters. Node 0 is the empty text.

    The node of a text is its longest end that is the beginning of a phrase. Phrases begin and end
    with a space if the symbols of the model write spaces.

    Attributes:
        keys: int64, node and character of each slot of a hash table; see `Spelling`.
        children: int32, the following node of each slot.
        fail: `[N]` int32, the node of the longest end of a node's text that is shorter.
        pending: `[N]` float64, score for a part of a phrase. A text loses it when it goes on with
            another character.
        earned: `[N]` float64, score of the phrase that ends at a node. A text keeps it.
        after_space: `[N]` bool, whether a node's text ends with a space.
    """

    keys: np.ndarray
    children: np.ndarray
    fail: np.ndarray
    pending: np.ndarray
    earned: np.ndarray
    after_space: np.ndarray


@compiled
def hot_step(graph, node, character):
    """Returns the node behind another character, and the score that the text gains or loses."""
    if len(graph.fail) == 1 or (character == SPACE and graph.after_space[node]):
        return np.int64(node), 0.0
    score = -graph.pending[node]
    child = np.int64(following(graph.keys, graph.children, node, character))
    while child < 0 and node > 0:
        node = np.int64(graph.fail[node])
        child = np.int64(following(graph.keys, graph.children, node, character))
    child = max(child, np.int64(0))
    return child, score + graph.pending[child] + graph.earned[child]


@compiled
def hot_end(graph, node):
    """Returns the score that a text gains or loses at its end."""
    node, score = hot_step(graph, node, SPACE)
    return score - graph.pending[node]


@compiled
def continues_phrase(graph, node, symbols, symbol):
    """Returns whether a symbol adds characters of a phrase behind a node."""
    start, moves = node, False
    for position in range(symbols.starts[symbol], symbols.starts[symbol + 1]):
        character = symbols.characters[position]
        if character == SPACE and graph.after_space[start]:
            continue
        start, moves = following(graph.keys, graph.children, start, character), True
        if start < 0:
            return False
    return moves


@compiled
def _hot_symbols(graph, symbols, node):
    """Returns nodes and scores behind each symbol."""
    size = len(symbols.starts) - 1
    nodes, scores = np.zeros(size, np.int64), np.zeros(size)
    for symbol in range(size):
        after, total = np.int64(node), 0.0
        for position in range(symbols.starts[symbol], symbols.starts[symbol + 1]):
            after, score = hot_step(graph, after, symbols.characters[position])
            total += score
        nodes[symbol], scores[symbol] = after, total
    return nodes, scores


def hot_graph(words: Sequence[HotWord], surfaces: Sequence[str], alphabet: Alphabet) -> HotGraph:
    """Makes the graph of hot words. Those of weight 0 and those without a spelling are left out.

    The score of a phrase is its weight times the number of symbols that it takes. It is spread
    evenly over the characters.

    Args:
        words: hot words.
        surfaces: texts of the symbols that write.
        alphabet: characters of these texts.

    Source: Aho and Corasick, Efficient string matching (1975); the scores follow icefall's and
        sherpa-onnx's context graphs, which count symbols in place of characters.
    """
    spellings = Spellings(surfaces)
    children: list[dict[int, int]] = [{}]
    reached, ends, parents, last = [0.0], [0.0], [0], [-1]  # of each node
    for text, weight in words:
        count = spellings.num_symbols(text)
        if not weight or count is None:
            continue
        total, text = weight * count, spellings.written(text)
        pattern = f" {text} " if spellings.has_spaces else text
        node, num_read = 0, 0 if spellings.has_spaces else 1
        for position, character in enumerate(alphabet.numbers_of(pattern).tolist()):
            following_node = children[node].setdefault(character, len(children))
            if following_node == len(children):
                children.append({})
                parents.append(node)
                last.append(character)
                reached.append(0.0)
                ends.append(0.0)
            node = following_node
            if position + 1 < len(pattern):
                share = total * (position + num_read) / len(text)
                reached[node] = max(reached[node], share)
        ends[node] = max(ends[node], total)
    fail, earned, kept = ([0] * len(children), [0.0] * len(children), [0.0] * len(children))
    pending = [0.0] * len(children)
    layer = [*children[0].values()]
    while layer:
        for node in layer:
            parent = parents[node]
            shorter = fail[parent]
            while shorter and last[node] not in children[shorter]:
                shorter = fail[shorter]
            fail[node] = children[shorter].get(last[node], 0) if parent else 0
            # `kept` is what the text has earned since the beginning of the node's text.
            earned[node] = max(0.0, ends[node] - kept[parent], earned[fail[node]])
            kept[node] = kept[parent] + earned[node]
            pending[node] = max(0.0, reached[node] - kept[node])
        layer = [child for node in layer for child in children[node].values()]
    edges = [(node, x, child) for node, found in enumerate(children) for x, child in found.items()]
    keys, values = character_table(np.array(edges, np.int64).reshape(-1, 3))
    arrays = (
        keys,
        values,
        np.array(fail, np.int32),
        np.array(pending),
        np.array(earned),
        np.array(last) == SPACE,
    )
    return HotGraph(*map(read_only, arrays))


@compiled
def _start(graph):
    node = following(graph.keys, graph.children, 0, SPACE)
    return max(np.int64(node), np.int64(0))


def start_node(graph: HotGraph) -> int:
    """Returns the node at the start of a text, which is that behind a space."""
    return int(_start(graph))


class HotScores:
    """Scores that hot words add to the symbols that greedy searches choose from.

    Args:
        words: hot words.
        surfaces: text that each of V symbols adds.
        blank: index of the blank symbol.

    Attributes:
        start: node of the empty text.
    """

    def __init__(self, words: Sequence[HotWord], surfaces: Sequence[str], blank: int):
        texts = ["" if number == blank else text for number, text in enumerate(surfaces)]
        alphabet = Alphabet(texts)
        self._graph = hot_graph(words, texts, alphabet)
        self._symbols: Symbols = alphabet.symbols(texts)
        self.start = start_node(self._graph)
        self._behind = functools.lru_cache(_NUM_CACHED)(self._compute)

    def of(self, node: int) -> np.ndarray:
        """Returns the score `[V]` of each symbol behind the text of a node."""
        return self._behind(node)[1]

    def after(self, node: int, token: int) -> int:
        """Returns the node behind another symbol."""
        return int(self._behind(node)[0][token])

    def _compute(self, node: int) -> tuple[np.ndarray, np.ndarray]:
        nodes, scores = _hot_symbols(self._graph, self._symbols, node)
        return nodes[1:], scores[1:].astype(np.float32)  # symbol 0 is the empty one in front
