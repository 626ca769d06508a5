"""The compiled loops of the CTC beam search. A beam is a row of integers and a row of floats."""

from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled
from tools.decoding.fusion import Table, fused_word
from tools.decoding.ngrams import Trie
from tools.decoding.spelling import SPACE, Spelling, Symbols, following, mixed

# Columns of the integers. Words in front of the current one stand from RECENT on as hashes.
TEXT, LAST, NODE, END, STATE, SPELLED, LENGTH, HOT, WORD, RECENT = range(10)
# Columns of the floats; BEST is the most probable of the paths whose sum is ACOUSTIC.
ACOUSTIC, BEST, LANGUAGE, HOT_WORDS = range(4)
NUM_FLOATS = 4
NODE_COLUMNS = 4  # parent, symbol, first frame of the symbol, end of the symbol before
NUM_BEAMS, NUM_NODES, FRAMES = range(3)  # counts of a row
NUM_QUESTIONS, STAMP = range(2)  # counts of a `Scratch`
DONE, NODES_FULL, QUESTIONS = range(3)  # why `advance_row` returns
_LOG_10 = np.log(10.0)
_WORD_LENGTH = 6  # unknown beginnings of words lose more score beyond this length


class Settings(NamedTuple):
    """Numbers of a search; see `CtcBeamSearch`."""

    width: int
    token_min: float
    beam_prune: float
    num_recent: int
    prunes_history: bool
    has_model: bool
    weight: float
    word_bonus: float
    unknown_offset: float
    hot_weight: float
    unknown: int
    end: int


class Known(NamedTuple):
    """What a search knows about texts.

    Attributes:
        symbols: characters of the symbols.
        spelling: words of the language model.
        hot: hot words.
        trie: n-grams of the language model.
        table: scores of a language model without n-grams in `trie`.
        settings: numbers of the search.
    """

    symbols: Symbols
    spelling: Spelling
    hot: Spelling
    trie: Trie
    table: Table
    settings: Settings


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


class Scratch(NamedTuple):
    """Arrays that a search writes to; their content between calls has no meaning.

    Attributes:
        integers: `[C, I]` int64 of candidates.
        floats: `[C, F]` float64 of candidates.
        symbols: `[C]` int64, the symbol that a candidate adds, or 0.
        totals: `[C]` float64.
        table: `[2^n]` int64, candidates by the hash of their text.
        stamps: `[2^n]` int64, when a slot of `table` was written.
        questions: `[Q]` int64, keys of a `Table` without a score.
        counts: `[2]` int64, the number of questions, and the last stamp.
    """

    integers: np.ndarray
    floats: np.ndarray
    symbols: np.ndarray
    totals: np.ndarray
    table: np.ndarray
    stamps: np.ndarray
    questions: np.ndarray
    counts: np.ndarray


@compiled
def sum_of_logs(one, other):
    """Returns the logarithm of the sum of two numbers that are given by their logarithms."""
    most, least = max(one, other), min(one, other)
    return most if least == -np.inf else most + np.log1p(np.exp(least - most))


@compiled
def _fused(known, scratch, state, word):
    """Returns the weighted score of a word, without the bonus, and the following state."""
    is_known, score, after = fused_word(known.trie, known.table, state, word)
    if not is_known:
        if scratch.counts[NUM_QUESTIONS] < len(scratch.questions):
            scratch.questions[scratch.counts[NUM_QUESTIONS]] = np.int64(state) << 32 | word
            scratch.counts[NUM_QUESTIONS] += 1
        return 0.0, np.int64(0)
    return known.settings.weight * score * _LOG_10, after


@compiled
def _end_word(integers, floats, known, scratch):
    """Scores the current word of a beam, which may be empty at the end of the text."""
    settings = known.settings
    if settings.has_model:
        spelled = integers[SPELLED]
        word = known.spelling.words[spelled] if spelled >= 0 else -1
        if word < 0:
            word = settings.unknown
            floats[LANGUAGE] += settings.weight * settings.unknown_offset * _LOG_10
        score, state = _fused(known, scratch, integers[STATE], word)
        floats[LANGUAGE] += score + settings.word_bonus
        integers[STATE] = state
    if integers[HOT] >= 0 and known.hot.words[integers[HOT]] >= 0:
        floats[HOT_WORDS] += settings.hot_weight


@compiled
def _append_space(integers, floats, known, scratch):
    """Ends the current word, if there is one."""
    if integers[LENGTH] > 0:
        _end_word(integers, floats, known, scratch)
        for index in range(known.settings.num_recent - 1, 0, -1):
            integers[RECENT + index] = integers[RECENT + index - 1]
        integers[RECENT] = integers[WORD]
    integers[SPELLED], integers[HOT], integers[LENGTH], integers[WORD] = 0, 0, 0, 0


@compiled
def _append_letter(integers, character, tries):
    """Adds a character to the current word. `tries` are keys and children of two `Spelling`s."""
    keys, children, hot_keys, hot_children = tries
    integers[SPELLED] = following(keys, children, integers[SPELLED], character)
    integers[HOT] = following(hot_keys, hot_children, integers[HOT], character)
    integers[WORD] = mixed(integers[WORD], character)
    integers[LENGTH] += 1


@compiled
def _unfinished(integers, shortest, settings):
    """Returns the score of an unfinished word; `shortest` is that of the hot words."""
    length = integers[LENGTH]
    if length > 0:
        if integers[HOT] > 0:
            return settings.hot_weight * length / shortest[integers[HOT]]
        if settings.has_model and integers[SPELLED] < 0:
            return settings.unknown_offset * max(1.0, length / _WORD_LENGTH)
    return 0.0


@compiled
def _expand(column, row, known, scratch):
    """Makes the candidates of a frame; returns their number."""
    scratch.counts[STAMP] += 1
    stamp, num_found = scratch.counts[STAMP], 0
    beams, values, frame = row.beams, row.values, row.counts[FRAMES]
    integers, floats, added = scratch.integers, scratch.floats, scratch.symbols
    slots, stamps = scratch.table, scratch.stamps
    characters, starts = known.symbols.characters, known.symbols.starts
    spelling, hot = known.spelling, known.hot
    tries = (spelling.keys, spelling.children, hot.keys, hot.children)
    mask, token_min = len(slots) - 1, known.settings.token_min
    best = column.argmax()
    for symbol in range(len(column)):
        log_probability = column[symbol]
        if not (log_probability >= token_min or symbol == best):
            continue
        for beam in range(row.counts[NUM_BEAMS]):
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
                        _append_space(integers[found], floats[found], known, scratch)
                    else:
                        _append_letter(integers[found], character, tries)
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
    settings, shortest = known.settings, known.hot.shortest
    integers, floats, totals = scratch.integers, scratch.floats, scratch.totals
    most = -np.inf
    for found in range(num_found):
        total = floats[found, ACOUSTIC] + floats[found, LANGUAGE] + floats[found, HOT_WORDS]
        totals[found] = total + _unfinished(integers[found], shortest, settings)
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
def extend_texts(texts, symbols, known, scratch):
    """Adds symbols to texts.

    Args:
        texts: `[N, I]` int64 and `[N, F]` float64, like beams; updated.
        symbols: `[N]`.
        known: `Known`.
        scratch: `Scratch`; receives questions.

    Returns:
        `[N]` scores of the words so far, with a share for the unfinished one.
    """
    integers, floats = texts
    spelling, hot, settings = known.spelling, known.hot, known.settings
    tries = (spelling.keys, spelling.children, hot.keys, hot.children)
    characters, starts = known.symbols.characters, known.symbols.starts
    scratch.counts[NUM_QUESTIONS] = 0
    scores = np.zeros(len(symbols))
    for index, symbol in enumerate(symbols):
        for position in range(starts[symbol], starts[symbol + 1]):
            if characters[position] == SPACE:
                _append_space(integers[index], floats[index], known, scratch)
            else:
                _append_letter(integers[index], characters[position], tries)
        scores[index] = floats[index, LANGUAGE] + floats[index, HOT_WORDS]
        scores[index] += _unfinished(integers[index], hot.shortest, settings)
    return scores


@compiled
def end_text(integers, floats, known, scratch):
    """Ends a text; returns the score of all words and the end of the sentence."""
    _end_word(integers, floats, known, scratch)
    if known.settings.has_model:
        score, _ = _fused(known, scratch, integers[STATE], known.settings.end)
        floats[LANGUAGE] += score
    return floats[LANGUAGE] + floats[HOT_WORDS]


@compiled
def end_texts(texts, known, scratch):
    """Ends texts, as in `extend_texts`; returns `[N]` scores of all words."""
    integers, floats = texts
    scratch.counts[NUM_QUESTIONS] = 0
    scores = np.zeros(len(integers))
    for index in range(len(integers)):
        scores[index] = end_text(integers[index], floats[index], known, scratch)
    return scores


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
        # Of a text with and without a space at the end, the less probable beam decides whether an
        # empty word is scored, as in pyctcdecode.
        integers[found], floats[found] = beams[beam], values[beam]
        integers[found, NODE], integers[found, END] = node, end
        floats[found, ACOUSTIC], floats[found, BEST] = acoustic, best
    for found in range(num_found):
        score = end_text(integers[found], floats[found], known, scratch)
        totals[found] = floats[found, ACOUSTIC] + score
    return np.argsort(-totals[:num_found], kind="mergesort")


@compiled
def compact(row):
    """Removes the nodes that no beam needs."""
    beams, nodes, num_nodes = row.beams, row.nodes, row.counts[NUM_NODES]
    numbers = np.full(num_nodes, -1, np.int64)
    for beam in range(row.counts[NUM_BEAMS]):
        node = beams[beam, NODE]
        while node >= 0 and numbers[node] < 0:
            numbers[node] = 0
            node = nodes[node, 0]
    num_left = 0
    for node in range(num_nodes):  # parents stand before their children
        if numbers[node] < 0:
            continue
        numbers[node] = num_left
        parent = nodes[node, 0]
        nodes[num_left] = nodes[node]
        nodes[num_left, 0] = numbers[parent] if parent >= 0 else -1
        num_left += 1
    for beam in range(row.counts[NUM_BEAMS]):
        if beams[beam, NODE] >= 0:
            beams[beam, NODE] = numbers[beams[beam, NODE]]
    row.counts[NUM_NODES] = num_left
