"""The compiled loops of the transducer beam search.

A hypothesis is a row of integers and a row of floats. Columns behind those that are named here are
those of `tools.decoding.texts.Texts`.
"""

from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled, sum_of_logs
from tools.decoding.spelling import mixed
from tools.decoding.transducer_cache import (
    FIRST,
    WINDOW,
    find_output,
    find_window,
    new_output,
    new_window,
    touch,
)

# Columns of the integers: hash of the tokens, last node in the tree of tokens, number of tokens,
# and the place of the prediction network's output before `TOKEN`, which is a token that the network
# has not read yet, or -1.
HASH, NODE, LENGTH, SOURCE, TOKEN, NUM_INTEGERS = range(6)
# Columns of the floats: what ranks hypotheses (the log-probability with the blank's penalty and the
# share), the log-probability of all paths with the same tokens, and the score of the words so far.
SCORE, LOG_PROBABILITY, SHARE, NUM_FLOATS = range(4)
# Columns of a node. The last one is a confidence, as the bits of a float.
PARENT, SYMBOL, START, CONFIDENCE, NODE_COLUMNS = range(5)
# Columns of the counts of a row: frames before this piece, current frame and number of frames of
# the piece, symbols emitted in the frame, phase, current hypotheses, and steps so far.
BEFORE, FRAME, NUM_FRAMES, STEP, PHASE, NUM_CURRENT, NOW, NUM_COUNTS = range(8)
# Phases of a row: its hypotheses need the logits of the frame, or the scores of their texts.
LOGITS, TEXTS = range(2)
# Columns of the requests for outputs: row, place of the output before the token, place of the new
# output, and token. Columns of the requests for windows: row, output, window and first frame.
PREDICTION_COLUMNS = WINDOW_COLUMNS = 4
NUM_PREDICTIONS, NUM_WINDOWS, NEEDS_NODES, NUM_REQUESTS = range(4)  # counts of the requests

_MARGIN = 1e-9  # larger than the rounding errors of a bound


class Settings(NamedTuple):
    """Numbers of a search.

    Attributes:
        width: number of hypotheses W of a row that are kept.
        blank: index of the blank symbol.
        penalty: subtracted from the score of a blank.
        beam_prune: see `tools.decoding.options.TransducerBeamSearch`.
        max_symbols: largest number of symbols in a frame.
        has_texts: whether texts are scored.
    """

    width: int
    blank: int
    penalty: float
    beam_prune: float
    max_symbols: int
    has_texts: bool


class Extensions(NamedTuple):
    """Hypotheses that will get another symbol, up to C in each row, best first.

    Attributes:
        counts: `[B]` int64, their number.
        parents: `[B, C]` int64, places among the current hypotheses.
        symbols: `[B, C]` int64.
        totals: `[B, C]` float64, their scores with the symbol.
        integers: `[B, C, I]` int64, texts with the symbol.
        floats: `[B, C, F]` float64, texts with the symbol.
        shares: `[B, C]` float64, scores of these texts.
    """

    counts: np.ndarray
    parents: np.ndarray
    symbols: np.ndarray
    totals: np.ndarray
    integers: np.ndarray
    floats: np.ndarray
    shares: np.ndarray


class Beams(NamedTuple):
    """Hypotheses of B rows. Each row has its own frame.

    Attributes:
        counts: `[B, NUM_COUNTS]` int64.
        integers: `[B, W, I]` int64, current hypotheses.
        floats: `[B, W, F]` float64.
        num_ended: `[B]` int64, number of the hypotheses that have ended the frame.
        ended_integers: `[B, 2W, I]` int64.
        ended_floats: `[B, 2W, F]` float64.
        extensions: hypotheses that will get another symbol.
        tree: `[1]` int64, number of nodes.
    """

    counts: np.ndarray
    integers: np.ndarray
    floats: np.ndarray
    num_ended: np.ndarray
    ended_integers: np.ndarray
    ended_floats: np.ndarray
    extensions: Extensions
    tree: np.ndarray


class Requests(NamedTuple):
    """What a search needs to go on.

    Attributes:
        counts: `[NUM_REQUESTS]` int64.
        predictions: `[B W, PREDICTION_COLUMNS]` int64.
        windows: `[B W, WINDOW_COLUMNS]` int64.
    """

    counts: np.ndarray
    predictions: np.ndarray
    windows: np.ndarray


@compiled
def _add(beams, row, hypothesis, scores):
    """Adds a hypothesis, or its probability if one with the same tokens has ended the frame."""
    integers, floats = hypothesis
    score, log_probability = scores
    ended, count, place = beams.ended_integers[row], beams.num_ended[row], 0
    while place < count and (
        ended[place, HASH] != integers[HASH] or ended[place, LENGTH] != integers[LENGTH]
    ):
        place += 1
    is_better, other = True, beams.ended_floats[row, place]
    if place < count:
        is_better = score > other[SCORE]
        score = sum_of_logs(score, other[SCORE])
        log_probability = sum_of_logs(log_probability, other[LOG_PROBABILITY])
    else:
        beams.num_ended[row] += 1
    if is_better:
        ended[place], other[:] = integers, floats
    other[SCORE], other[LOG_PROBABILITY] = score, log_probability


@compiled
def _keep_best(beams, row, width):
    count = beams.num_ended[row]
    if count > width:
        order = np.argsort(-beams.ended_floats[row, :count, SCORE], kind="mergesort")[:width]
        beams.ended_integers[row, :width] = beams.ended_integers[row][order]
        beams.ended_floats[row, :width] = beams.ended_floats[row][order]
        beams.num_ended[row] = width


@compiled
def _least(beams, row, settings):
    """Returns the score that a hypothesis must exceed to be extended."""
    count = beams.num_ended[row]
    if count == 0:
        return -np.inf
    scores = beams.ended_floats[row, :count, SCORE]
    least = scores.max() - settings.beam_prune
    return max(least, scores.min()) if count == settings.width else least


@compiled
def _is_ready(beams, cache, requests, row):
    """Returns whether the logits of the frame are there; requests those that are not."""
    counts, integers = beams.counts[row], beams.integers[row]
    counts[NOW] += 1
    frame, now, is_ready = counts[FRAME], counts[NOW], True
    for index in range(counts[NUM_CURRENT]):
        touch(cache, row, integers[index, SOURCE], now)
    for index in range(beams.num_ended[row]):
        touch(cache, row, beams.ended_integers[row, index, SOURCE], now)
    for index in range(counts[NUM_CURRENT]):
        one = integers[index]
        if one[TOKEN] >= 0:
            output = find_output(cache, row, one[HASH])
            if output < 0:
                output = new_output(cache, row, one[HASH], now)
                request = requests.predictions[requests.counts[NUM_PREDICTIONS]]
                requests.counts[NUM_PREDICTIONS] += 1
                request[0], request[1], request[2] = row, one[SOURCE], output
                request[3] = one[TOKEN]
            one[SOURCE], one[TOKEN] = output, -1
            touch(cache, row, output, now)
        if find_window(cache, row, one[SOURCE], frame) < 0:
            length = min(cache.sums.shape[2], counts[NUM_FRAMES] - frame)
            window = new_window(cache, row, one[SOURCE], (frame, length))
            request = requests.windows[requests.counts[NUM_WINDOWS]]
            requests.counts[NUM_WINDOWS] += 1
            request[0], request[1], request[2], request[3] = row, one[SOURCE], window, frame
            is_ready = False
    return is_ready


@compiled
def _logits_of(beams, cache, row, index):
    """Returns the place of the logits of a hypothesis: its window, and the frame in it."""
    window = cache.outputs[row, beams.integers[row, index, SOURCE], WINDOW]
    return window, beams.counts[row, FRAME] - cache.windows[row, window, FIRST]


@compiled
def _add_blanks(beams, cache, settings, row):
    """Adds the current hypotheses with a blank to those that have ended the frame."""
    for index in range(beams.counts[row, NUM_CURRENT]):
        window, frame = _logits_of(beams, cache, row, index)
        logits = cache.logits[row, window, frame]
        gain = logits[settings.blank] - cache.sums[row, window, frame]
        floats = beams.floats[row, index]
        score = floats[SCORE] + gain - settings.penalty
        total = floats[LOG_PROBABILITY] + gain
        _add(beams, row, (beams.integers[row, index], floats), (score, total))
    _keep_best(beams, row, settings.width)


@compiled
def _find_extensions(beams, cache, settings, row):
    """Finds the symbols that may bring hypotheses among the best ones."""
    found, least, count = beams.extensions, _least(beams, row, settings), 0
    totals = found.totals[row]
    size = len(totals)
    for index in range(beams.counts[row, NUM_CURRENT]):
        window, frame = _logits_of(beams, cache, row, index)
        logits, sums = cache.logits[row, window, frame], cache.sums[row, window, frame]
        score = beams.floats[row, index, SCORE]
        bound = least - score + sums  # of the logits
        if cache.tops[row, window, frame] <= bound:
            continue
        for symbol in range(len(logits)):
            if not logits[symbol] > bound or symbol == settings.blank:
                continue
            total = score + (logits[symbol] - sums)
            if count == size and total <= totals[size - 1]:
                continue
            place = min(count, size - 1)
            while place > 0 and totals[place - 1] < total:
                totals[place] = totals[place - 1]
                found.parents[row, place] = found.parents[row, place - 1]
                found.symbols[row, place] = found.symbols[row, place - 1]
                place -= 1
            totals[place] = total
            found.parents[row, place], found.symbols[row, place] = index, symbol
            count = min(count + 1, size)
            if count == size:
                bound = max(bound, totals[size - 1] - score + sums - _MARGIN)
    found.counts[row] = count


@compiled
def _extend(beams, cache, nodes, row):
    """Makes the extensions the current hypotheses, and writes the nodes of their symbols."""
    found, counts = beams.extensions, beams.counts[row]
    size, certain = found.counts[row], nodes.view(np.float32)
    integers = np.empty((size, beams.integers.shape[2]), np.int64)
    floats = np.empty((size, beams.floats.shape[2]))
    for index in range(size):
        parent, symbol = found.parents[row, index], found.symbols[row, index]
        one, values = integers[index], floats[index]
        one[:], values[:] = beams.integers[row, parent], beams.floats[row, parent]
        one[NUM_INTEGERS:] = found.integers[row, index]
        values[NUM_FLOATS:] = found.floats[row, index]
        window, frame = _logits_of(beams, cache, row, parent)
        gain = cache.logits[row, window, frame, symbol] - cache.sums[row, window, frame]
        values[SCORE], values[SHARE] = found.totals[row, index], found.shares[row, index]
        values[LOG_PROBABILITY] += gain
        number = beams.tree[0]
        beams.tree[0] += 1
        node = nodes[number]
        node[PARENT], node[SYMBOL] = one[NODE], symbol
        node[START] = counts[BEFORE] + counts[FRAME]
        certain[number, CONFIDENCE] = cache.confidences[row, window, frame]
        one[NODE], one[TOKEN], one[HASH] = number, symbol, mixed(one[HASH], symbol)
        one[LENGTH] += 1
    beams.integers[row, :size], beams.floats[row, :size] = integers, floats
    counts[NUM_CURRENT] = size
    counts[STEP] += 1


@compiled
def _end_frame(beams, settings, row):
    """Goes on to the next frame with the best hypotheses."""
    counts = beams.counts[row]
    for index in range(counts[NUM_CURRENT]):  # the limit of symbols ends the frame as well
        one = beams.floats[row, index]
        scores = one[SCORE], one[LOG_PROBABILITY]
        _add(beams, row, (beams.integers[row, index], one), scores)
    _keep_best(beams, row, settings.width)
    count = beams.num_ended[row]
    beams.integers[row, :count] = beams.ended_integers[row, :count]
    beams.floats[row, :count] = beams.ended_floats[row, :count]
    counts[NUM_CURRENT], counts[STEP], beams.num_ended[row] = count, 0, 0
    counts[FRAME] += 1


@compiled
def _step(beams, work, settings, row):
    """Decodes a frame up to the next symbol; returns whether the row can go on."""
    counts = beams.counts[row]
    cache, nodes, requests = work
    if counts[PHASE] == LOGITS:
        if counts[FRAME] >= counts[NUM_FRAMES]:
            return False
        # Rows in the phase TEXTS add their tokens without another check.
        if beams.tree[0] + settings.width * len(beams.counts) > len(nodes):
            requests.counts[NEEDS_NODES] = 1
            return False
        if not _is_ready(beams, cache, requests, row):
            return False
        _add_blanks(beams, cache, settings, row)
        _find_extensions(beams, cache, settings, row)
        if settings.has_texts and beams.extensions.counts[row] > 0:
            counts[PHASE] = TEXTS
            return False
    counts[PHASE] = LOGITS
    _extend(beams, cache, nodes, row)
    if counts[NUM_CURRENT] == 0 or counts[STEP] == settings.max_symbols:
        _end_frame(beams, settings, row)
    return True


@compiled
def advance(beams, work, settings):
    """Decodes each row as far as the outputs of the networks reach.

    Args:
        beams: `Beams`; extensions of rows in the phase `TEXTS` must have been scored.
        work: `tools.decoding.transducer_cache.Cache`, the `[M, NODE_COLUMNS]` int32 tree of tokens,
            and `Requests` to fill.
        settings: `Settings`.
    """
    work[2].counts[:] = 0
    for row in range(len(beams.counts)):
        while _step(beams, work, settings, row):
            pass
