"""The compiled scores of texts: words of a language model, and hot words.

A text is a row of integers and a row of floats.
"""

from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled
from tools.decoding.fusion import Table, fused_word
from tools.decoding.hot_graph import HotGraph, hot_end, hot_step
from tools.decoding.ngrams import Trie
from tools.decoding.spelling import SPACE, Spelling, Symbols, following, mixed

# Columns of the integers. Words in front of the current one stand from RECENT on as hashes. The
# first four columns are those of the CTC beam search.
TEXT, LAST, NODE, END, STATE, SPELLED, LENGTH, HOT, WORD, RECENT = range(10)
# Columns of the floats. The first two are those of the CTC beam search: BEST is the most probable
# of the paths whose sum is ACOUSTIC.
ACOUSTIC, BEST, LANGUAGE, HOT_WORDS = range(4)
NUM_FLOATS = 4
NUM_QUESTIONS, STAMP = range(2)  # counts of a `Scratch`
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
    unknown: int
    end: int


class Known(NamedTuple):
    """What a search knows about texts.

    Attributes:
        symbols: characters of the symbols.
        spelling: words of the language model.
        hot: graph of the hot words.
        trie: n-grams of the language model.
        table: scores of a language model without n-grams in `trie`.
        settings: numbers of the search.
    """

    symbols: Symbols
    spelling: Spelling
    hot: HotGraph
    trie: Trie
    table: Table
    settings: Settings


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
    """Scores the current word of a text."""
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


@compiled
def append_space(integers, floats, known, scratch):
    """Adds a space to a text: ends the current word, if there is one."""
    if integers[LENGTH] > 0:
        _end_word(integers, floats, known, scratch)
        for index in range(known.settings.num_recent - 1, 0, -1):
            integers[RECENT + index] = integers[RECENT + index - 1]
        integers[RECENT] = integers[WORD]
    integers[SPELLED], integers[LENGTH], integers[WORD] = 0, 0, 0
    integers[HOT], score = hot_step(known.hot, integers[HOT], SPACE)
    floats[HOT_WORDS] += score


@compiled
def append_letter(integers, floats, known, character):
    """Adds a character to the current word of a text."""
    spelling = known.spelling
    integers[SPELLED] = following(spelling.keys, spelling.children, integers[SPELLED], character)
    integers[HOT], score = hot_step(known.hot, integers[HOT], character)
    floats[HOT_WORDS] += score
    integers[WORD] = mixed(integers[WORD], character)
    integers[LENGTH] += 1


@compiled
def unfinished(integers, settings):
    """Returns the score of an unfinished word."""
    length = integers[LENGTH]
    if length > 0 and settings.has_model and integers[SPELLED] < 0:
        return settings.unknown_offset * max(1.0, length / _WORD_LENGTH)
    return 0.0


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
    characters, starts = known.symbols.characters, known.symbols.starts
    scratch.counts[NUM_QUESTIONS] = 0
    scores = np.zeros(len(symbols))
    for index, symbol in enumerate(symbols):
        for position in range(starts[symbol], starts[symbol + 1]):
            if characters[position] == SPACE:
                append_space(integers[index], floats[index], known, scratch)
            else:
                append_letter(integers[index], floats[index], known, characters[position])
        scores[index] = floats[index, LANGUAGE] + floats[index, HOT_WORDS]
        scores[index] += unfinished(integers[index], known.settings)
    return scores


@compiled
def end_text(integers, floats, known, scratch):
    """Ends a text; returns the score of all words and the end of the sentence."""
    if integers[LENGTH] > 0:
        _end_word(integers, floats, known, scratch)
    floats[HOT_WORDS] += hot_end(known.hot, integers[HOT])
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
