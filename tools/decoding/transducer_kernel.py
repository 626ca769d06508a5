"""The compiled loops of the transducer beam search.

A hypothesis is a row of integers and a row of floats. Columns behind those that are named here are
those of `tools.decoding.texts.Texts`.
"""

from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled, sum_of_logs
from tools.decoding.spelling import mixed

# Columns of the integers: row of the batch, hash of the tokens, last node in the tree of tokens,
# number of tokens, and the place of the prediction network's output before `TOKEN`, which is a
# token that the network has not read yet, or -1.
ROW, HASH, NODE, LENGTH, SOURCE, TOKEN, NUM_INTEGERS = range(7)
# Columns of the floats: what ranks hypotheses (the log-probability with the blank's penalty and the
# share), the log-probability of all paths with the same tokens, and the score of the words so far.
SCORE, LOG_PROBABILITY, SHARE, NUM_FLOATS = range(4)
# Columns of a node. The last three tell where its logits are: the step within the frame, the row of
# the logits, and (as the bits of a float) the confidence that was computed from them.
PARENT, SYMBOL, START, STEP, PLACE, CONFIDENCE, NODE_COLUMNS = range(7)


class Ended(NamedTuple):
    """Hypotheses that have ended a frame.

    Attributes:
        integers: `[B, 2W, I]` int64.
        floats: `[B, 2W, F]` float64.
        counts: `[B]` int64, number of hypotheses of each row.
        width: number of hypotheses W of a row that are kept.
    """

    integers: np.ndarray
    floats: np.ndarray
    counts: np.ndarray
    width: int


@compiled
def _add(ended, hypothesis, score, log_probability):
    """Adds a hypothesis, or its probability if one with the same tokens is there."""
    integers, floats = hypothesis
    row = integers[ROW]
    count = ended.counts[row]
    place = 0
    while place < count and (
        ended.integers[row, place, HASH] != integers[HASH]
        or ended.integers[row, place, LENGTH] != integers[LENGTH]
    ):
        place += 1
    is_better = True
    if place < count:
        other = ended.floats[row, place]
        is_better = score > other[SCORE]
        score = sum_of_logs(score, other[SCORE])
        log_probability = sum_of_logs(log_probability, other[LOG_PROBABILITY])
    else:
        ended.counts[row] += 1
    if is_better:
        ended.integers[row, place], ended.floats[row, place] = integers, floats
    ended.floats[row, place, SCORE] = score
    ended.floats[row, place, LOG_PROBABILITY] = log_probability


@compiled
def add_unchanged(ended, hypotheses, is_added):
    """Adds hypotheses as they are; `is_added` says for which rows of the batch."""
    integers, floats = hypotheses
    for index in range(len(integers)):
        if is_added[integers[index, ROW]]:
            one = floats[index]
            _add(ended, (integers[index], one), one[SCORE], one[LOG_PROBABILITY])
    _keep_best(ended)


@compiled
def add_blanks(ended, hypotheses, scores, penalty):
    """Adds hypotheses `[N, I]` and `[N, F]` with a blank of log-probability `scores` `[N]`."""
    integers, floats = hypotheses
    for index in range(len(integers)):
        one = floats[index]
        score = one[SCORE] + scores[index] - penalty
        total = one[LOG_PROBABILITY] + scores[index]
        _add(ended, (integers[index], one), score, total)
    _keep_best(ended)


@compiled
def _keep_best(ended):
    width = ended.width
    for row in range(len(ended.counts)):
        count = ended.counts[row]
        if count > width:
            order = np.argsort(-ended.floats[row, :count, SCORE], kind="mergesort")[:width]
            ended.integers[row, :width] = ended.integers[row][order]
            ended.floats[row, :width] = ended.floats[row][order]
            ended.counts[row] = width


@compiled
def _least(ended, beam_prune):
    """Returns the score `[B]` that a hypothesis of each row must exceed to be extended."""
    least = np.full(len(ended.counts), -np.inf)
    for row in range(len(least)):
        count = ended.counts[row]
        if count > 0:
            scores = ended.floats[row, :count, SCORE]
            least[row] = scores.max() - beam_prune
            if count == ended.width:
                least[row] = max(least[row], scores.min())
    return least


@compiled
def extensions(hypotheses, joined, ended, limits):
    """Finds the tokens that may bring hypotheses among the best ones.

    Args:
        hypotheses: integers `[N, I]` and floats `[N, F]`, sorted by the rows of the batch.
        joined: logits `[N, V]`, and the logarithms `[N]` of the sums of their exponentials.
        ended: `Ended`.
        limits: index of the blank symbol, `beam_prune`, and the number of extensions of a row.

    Returns:
        `[M]` indices of hypotheses, `[M]` tokens, and `[M]` scores of the extended hypotheses, best
        first in each row.
    """
    integers, floats = hypotheses
    logits, sums = joined
    blank, beam_prune, num_wanted = limits
    least = _least(ended, beam_prune)
    size = 0
    bounds = np.empty(len(integers), np.float64)
    for index in range(len(integers)):
        bounds[index] = least[integers[index, ROW]] - floats[index, SCORE] + sums[index]
        bound = bounds[index]
        for symbol in range(logits.shape[1]):
            size += logits[index, symbol] > bound
    parents, symbols = np.empty(size, np.int64), np.empty(size, np.int64)
    totals = np.empty(size)
    count, first, kept = 0, 0, 0
    for index in range(len(integers)):
        for symbol in range(logits.shape[1]):
            if logits[index, symbol] > bounds[index] and symbol != blank:
                parents[count], symbols[count] = index, symbol
                totals[count] = floats[index, SCORE] + (logits[index, symbol] - sums[index])
                count += 1
        if index + 1 == len(integers) or integers[index + 1, ROW] != integers[index, ROW]:
            order = np.argsort(-totals[first:count], kind="mergesort")[:num_wanted] + first
            chosen = parents[order], symbols[order], totals[order]
            end = kept + len(order)
            parents[kept:end], symbols[kept:end], totals[kept:end] = chosen
            count = first = kept = end
    return parents[:kept], symbols[:kept], totals[:kept]


@compiled
def extended(hypotheses, chosen, nodes, places):
    """Returns hypotheses with another token, and writes the nodes of these tokens.

    Args:
        hypotheses: integers `[N, I]` and floats `[N, F]`.
        chosen: `[M]` indices of hypotheses, `[M]` tokens, `[M]` scores with these tokens, and `[M]`
            log-probabilities of the tokens.
        nodes: the tree of tokens; updated.
        places: number of the first free node, step within the frame, and `[B]` frames of the rows.

    Returns:
        Integers `[M, I]` and floats `[M, F]`.
    """
    integers, floats = hypotheses
    parents, symbols, totals, gains = chosen
    first, step, frames = places
    new_integers, new_floats = integers[parents], floats[parents]
    for index in range(len(parents)):
        one, symbol = new_integers[index], symbols[index]
        node = nodes[first + index]
        node[PARENT], node[SYMBOL], node[START] = one[NODE], symbol, frames[one[ROW]]
        node[STEP], node[PLACE], node[CONFIDENCE] = step, parents[index], -1
        one[NODE], one[TOKEN], one[HASH] = first + index, symbol, mixed(one[HASH], symbol)
        one[LENGTH] += 1
        new_floats[index, SCORE] = totals[index]
        new_floats[index, LOG_PROBABILITY] += gains[index]
    return new_integers, new_floats


@compiled
def collected(ended):
    """Returns the hypotheses of `Ended` as integers `[N, I]` and floats `[N, F]`, by rows."""
    size = ended.counts.sum()
    integers = np.empty((size, ended.integers.shape[2]), np.int64)
    floats = np.empty((size, ended.floats.shape[2]))
    first = 0
    for row in range(len(ended.counts)):
        count = ended.counts[row]
        integers[first : first + count] = ended.integers[row, :count]
        floats[first : first + count] = ended.floats[row, :count]
        first += count
    return integers, floats


@compiled
def new_nodes(integers, nodes, bounds):
    """Returns the nodes of hypotheses that began in the current frame and lack a confidence.

    Args:
        integers: `[N, I]` hypotheses.
        nodes: `[M, NODE_COLUMNS]` the tree; the nodes that are found are marked.
        bounds: the first node of the current frame, and the number of all nodes.
    """
    first, num_nodes = bounds
    found, count = np.empty(num_nodes - first, np.int64), 0
    for index in range(len(integers)):
        node = integers[index, NODE]
        while node >= first and nodes[node, CONFIDENCE] == -1:
            nodes[node, CONFIDENCE] = 0
            found[count] = node
            count += 1
            node = np.int64(nodes[node, PARENT])
    return found[:count]
