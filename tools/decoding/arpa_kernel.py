"""The compiled loops that read the n-grams of ARPA files."""

from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled
from tools.decoding.ngrams import find_child, find_word

# Why `parse_ngrams` returns before the end of the data; other numbers are those of problems.
BREAK, FULL = -1, -2


class Found(NamedTuple):
    """Receives the n-grams of an order.

    Attributes:
        nodes: `[N, 2]` int32, the node of the first words, and the last word.
        values: `[N, 2]` float32, probability and backoff weight; NaN without one.
        counts: `[2]` int64, numbers of n-grams and of lines that were read.
    """

    nodes: np.ndarray
    values: np.ndarray
    counts: np.ndarray


@compiled
def _is_space(byte):
    return byte == 32 or byte == 9 or byte == 13


@compiled
def parse_number(text, start, end):
    """Returns the decimal number `text[start:end]`; NaN if it is none."""
    position, sign = start, 1.0
    if position < end and (text[position] == 45 or text[position] == 43):
        sign = -1.0 if text[position] == 45 else 1.0
        position += 1
    value, digits, scale = 0.0, 0, 0
    is_fraction = False
    while position < end:
        byte = text[position]
        if byte == 46 and not is_fraction:
            is_fraction = True
        elif 48 <= byte <= 57:
            value = value * 10.0 + (byte - 48)
            digits += 1
            if is_fraction:
                scale -= 1
        else:
            break
        position += 1
    if digits == 0:
        return np.nan
    if position < end:
        if text[position] != 101 and text[position] != 69:
            return np.nan
        position += 1
        negative = position < end and text[position] == 45
        if position < end and (text[position] == 45 or text[position] == 43):
            position += 1
        if position == end:
            return np.nan
        exponent = 0
        while position < end:
            if not 48 <= text[position] <= 57 or exponent > 999:
                return np.nan
            exponent = exponent * 10 + (text[position] - 48)
            position += 1
        scale += -exponent if negative else exponent
    return sign * value * 10.0**scale


@compiled
def parse_ngrams(text, shape, known, found):
    """Reads the n-grams of whole lines.

    Args:
        text: `[S]` uint8, whole lines.
        shape: number of words of an n-gram, at least 2, and whether backoff weights are allowed.
        known: `Trie` of all shorter n-grams, and `Words`.
        found: `Found`; updated.

    Returns:
        0 at the end of the text; a key of `tools.decoding.arpa.PROBLEMS`, with the line's number in
        `found.counts`; or `BREAK` at a line that starts with a backslash; or `FULL` at the line of
        N + 1. And the position of the next line.
    """
    order, has_backoff = shape
    trie, words = known
    nodes, values, counts = found
    starts, ends = np.zeros(order + 4, np.int64), np.zeros(order + 4, np.int64)
    position, size = 0, len(text)
    while position < size:
        line = position
        fields = 0
        while position < size and text[position] != 10:
            while _is_space(text[position]):
                position += 1
            if text[position] == 10:
                break
            starts[fields] = position
            while text[position] != 10 and not _is_space(text[position]):
                position += 1
            ends[fields] = position
            if fields < order + 3:
                fields += 1
        position += 1
        if fields and text[starts[0]] == 92:
            return BREAK, line
        counts[1] += 1
        if fields == 0:
            continue
        number = counts[0]
        if number == len(nodes):
            counts[1] -= 1
            return FULL, line
        if fields != order + 1 and not (has_backoff and fields == order + 2):
            return 1, line
        probability = parse_number(text, starts[0], ends[0])
        backoff = np.nan
        if fields == order + 2:
            backoff = parse_number(text, starts[order + 1], ends[order + 1])
            if not np.isfinite(backoff):
                return 2, line
        if not np.isfinite(probability) or probability > 0.0:
            return 2, line
        node, word = 0, 0
        for index in range(order):
            word = find_word(words, text, starts[index + 1], ends[index + 1])
            if word < 0:
                return 3, line
            if index < order - 1:
                node = find_child(trie, node, word)
                if node < 0:
                    return 4, line
        if np.isnan(trie.log10_backoff[node]):
            return 5, line
        nodes[number, 0], nodes[number, 1] = node, word
        values[number, 0], values[number, 1] = probability, backoff
        counts[0] = number + 1
    return 0, position


@compiled
def link_shorter(trie, parents, first, shorter):
    """Writes the links of the nodes from `first` on to their longest shorter n-grams."""
    for index, parent in enumerate(parents):
        word, node = trie.words[first + index], trie.shorter[parent]
        child = find_child(trie, node, word)
        while child < 0:
            node = trie.shorter[node]
            child = find_child(trie, node, word)
        shorter[first + index] = child
