"""The compiled loops of the CTC beam search. A beam is a row of integers and a row of floats."""

from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled, sum_of_logs
from tools.decoding.hot_graph import continues_phrase
from tools.decoding.spelling import SPACE, mixed
from tools.decoding.text_kernel import (
    ACOUSTIC,
    BEST,
    END,
    HOT,
    HOT_WORDS,
    LANGUAGE,
    LAST,
    LENGTH,
    NODE,
    NUM_FLOATS,
    NUM_QUESTIONS,
    RECENT,
    STAMP,
    TEXT,
    WORD,
    append_letter,
    append_space,
    end_text,
    unfinished,
)

NODE_COLUMNS = 4  # parent, symbol, first frame of the symbol, end of the symbol before
NUM_BEAMS, NUM_NODES, FRAMES = range(3)  # counts of a row
DONE, NODES_FULL, QUESTIONS = range(3)  # why `advance_row` returns


class Row(NamedTuple):
    """The beams of a row.

    Attributes:
        beams: `[W, I]` int64.
        values: `[W, F]` float64.
        nodes: `[N, NODE_COLUMNS]` int32, symbols of all beams as a tree.
        counts: `[3]` int64, numbers of beams, of nodes, and of frames decoded so far.
    """

    beams: np.ndarray
    values: np.ndarray
    nodes: np.ndarray
    counts: np.ndarray


@compiled
def _expand(column, row, known, scratch):
    """Makes the candidates of a frame; returns their number."""
    scratch.counts[STAMP] += 1
    stamp, num_found = scratch.counts[STAMP], 0
    beams, values, frame = row.beams, row.values, row.counts[FRAMES]
    integers, floats, added = scratch.integers, scratch.floats, scratch.symbols
    slots, stamps = scratch.table, scratch.stamps
    characters, starts = known.symbols.characters, known.symbols.starts
    mask, token_min = len(slots) - 1, known.settings.token_min
    has_hot = len(known.hot.fail) > 1
    best = column.argmax()
    for symbol in range(len(column)):
        log_probability = column[symbol]
        is_tried = log_probability >= token_min or symbol == best
        if not is_tried and not (has_hot and log_probability >= known.settings.beam_prune):
            continue
        for beam in range(row.counts[NUM_BEAMS]):
            # A phrase may make up for a symbol that is improbable.
            if not is_tried and not continues_phrase(
                known.hot, beams[beam, HOT], known.symbols, symbol
            ):
                continue
            text, length = beams[beam, TEXT], beams[beam, LENGTH]
            repeats = symbol == 0 or symbol == beams[beam, LAST]
            first = starts[symbol]
            last = first if repeats else starts[symbol + 1]  # the characters that are added
            for position in range(first, last):
                character = characters[position]
                if character == SPACE:
                    length = 0
                else:
                    if length == 0 and text != 0:
                        text = mixed(text, SPACE)
                    text = mixed(text, character)
                    length += 1
            # Candidates with the same text, with or without a space behind, and the same symbol.
            slot = mixed(mixed(text, symbol), np.int64(length > 0)) & mask
            while stamps[slot] == stamp and not (
                integers[slots[slot], TEXT] == text
                and (integers[slots[slot], LENGTH] > 0) == (length > 0)
                and integers[slots[slot], LAST] == symbol
            ):
                slot = (slot + 1) & mask
            acoustic = values[beam, ACOUSTIC] + log_probability
            path = values[beam, BEST] + log_probability
            if stamps[slot] == stamp:
                found = slots[slot]
                floats[found, ACOUSTIC] = sum_of_logs(floats[found, ACOUSTIC], acoustic)
                if path <= floats[found, BEST]:
                    continue
                floats[found, BEST] = path
            else:
                found = num_found
                num_found += 1
                slots[slot], stamps[slot] = found, stamp
                for index in range(beams.shape[1]):
                    integers[found, index] = beams[beam, index]
                floats[found, ACOUSTIC], floats[found, BEST] = acoustic, path
                floats[found, LANGUAGE] = values[beam, LANGUAGE]
                floats[found, HOT_WORDS] = values[beam, HOT_WORDS]
                for position in range(first, last):
                    character = characters[position]
                    if character == SPACE:
                        append_space(integers[found], floats[found], known, scratch)
                    else:
                        append_letter(integers[found], floats[found], known, character)
                integers[found, TEXT], integers[found, LAST] = text, symbol
            integers[found, NODE] = beams[beam, NODE]
            added[found] = 0 if repeats else symbol
            # With a new symbol, the end of the symbol before stays until the node is made.
            continues = repeats and symbol > 0
            integers[found, END] = frame + 1 if continues else beams[beam, END]
    return num_found


@compiled
def _score(num_found, known, scratch):
    """Writes the scores of candidates, with a share for the unfinished word; returns the best."""
    integers, floats, totals = scratch.integers, scratch.floats, scratch.totals
    most = -np.inf
    for found in range(num_found):
        total = floats[found, ACOUSTIC] + floats[found, LANGUAGE] + floats[found, HOT_WORDS]
        totals[found] = total + unfinished(integers[found], known.settings)
        most = max(most, totals[found])
    return most


@compiled
def _select(num_found, row, known, scratch):
    """Keeps the best candidates as beams."""
    settings = known.settings
    beams, values, nodes, counts = row.beams, row.values, row.nodes, row.counts
    integers, floats, totals = scratch.integers, scratch.floats, scratch.totals
    slots, stamps = scratch.table, scratch.stamps
    most = _score(num_found, known, scratch)
    close = np.flatnonzero(totals[:num_found] >= most + settings.beam_prune)
    close = close[np.argsort(-totals[close], kind="mergesort")[: settings.width]]
    scratch.counts[STAMP] += 1
    stamp, count, num_nodes = scratch.counts[STAMP], 0, counts[NUM_NODES]
    mask = len(slots) - 1
    for found in close:
        if settings.prunes_history:
            key = mixed(integers[found, WORD], integers[found, LAST])
            key = mixed(key, integers[found, HOT])
            for index in range(settings.num_recent):
                key = mixed(key, integers[found, RECENT + index])
            slot = key & mask
            while stamps[slot] == stamp and slots[slot] != key:
                slot = (slot + 1) & mask
            if stamps[slot] == stamp:
                continue
            slots[slot], stamps[slot] = key, stamp
        for index in range(beams.shape[1]):
            beams[count, index] = integers[found, index]
        for index in range(NUM_FLOATS):
            values[count, index] = floats[found, index]
        if scratch.symbols[found] > 0:
            nodes[num_nodes, 0] = integers[found, NODE]
            nodes[num_nodes, 1] = scratch.symbols[found]
            nodes[num_nodes, 2] = counts[FRAMES]
            nodes[num_nodes, 3] = integers[found, END]
            beams[count, NODE], beams[count, END] = num_nodes, counts[FRAMES] + 1
            num_nodes += 1
        count += 1
    counts[NUM_BEAMS], counts[NUM_NODES] = count, num_nodes


@compiled
def advance_row(columns, row, known, scratch):
    """Decodes frames of a row.

    Args:
        columns: `[T, K + 1]` log-probabilities, of no symbol first.
        row: `Row`; updated.
        known: `Known`.
        scratch: `Scratch`.

    Returns:
        The number of frames that were decoded, and `DONE`, `NODES_FULL` or `QUESTIONS`.
    """
    for frame in range(len(columns)):
        if row.counts[NUM_NODES] + known.settings.width > len(row.nodes):
            return frame, NODES_FULL
        scratch.counts[NUM_QUESTIONS] = 0
        num_found = _expand(columns[frame], row, known, scratch)
        if scratch.counts[NUM_QUESTIONS] > 0:
            return frame, QUESTIONS
        _select(num_found, row, known, scratch)
        row.counts[FRAMES] += 1
    return len(columns), DONE


@compiled
def finish_row(row, known, scratch):
    """Merges equal texts and ends their last words.

    Returns:
        The rows of the hypotheses in `scratch`, best first.
    """
    scratch.counts[NUM_QUESTIONS] = 0
    beams, values = row.beams, row.values
    integers, floats, totals = scratch.integers, scratch.floats, scratch.totals
    num_found = 0
    for beam in range(row.counts[NUM_BEAMS]):
        found = 0
        while found < num_found and integers[found, TEXT] != beams[beam, TEXT]:
            found += 1
        acoustic, best = values[beam, ACOUSTIC], values[beam, BEST]
        node, end = beams[beam, NODE], beams[beam, END]
        if found < num_found:
            acoustic = sum_of_logs(floats[found, ACOUSTIC], acoustic)
            if floats[found, BEST] > best:
                best = floats[found, BEST]
                node, end = integers[found, NODE], integers[found, END]
        num_found = max(num_found, found + 1)
        integers[found], floats[found] = beams[beam], values[beam]
        integers[found, NODE], integers[found, END] = node, end
        floats[found, ACOUSTIC], floats[found, BEST] = acoustic, best
    for found in range(num_found):
        score = end_text(integers[found], floats[found], known, scratch)
        totals[found] = floats[found, ACOUSTIC] + score
    return np.argsort(-totals[:num_found], kind="mergesort")
