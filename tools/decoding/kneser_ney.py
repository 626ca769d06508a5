"""Estimates n-gram language models from text: modified Kneser-Ney smoothing with pruning."""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.decoding.ngrams import BEGIN, END, UNKNOWN
from tools.errors import UserError

MAX_ORDER = 8
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # where a text is too small to estimate them
_NEVER = -99.0  # log10 probability or weight that stands for 0


@dataclass(slots=True)
class Ngrams:
    """All n-grams of one order in a text, sorted by their first words, then by their last word.

    Attributes:
        first: `[N]` the (n-1)-gram of the first words of each n-gram; 0 for words.
        last: `[N]` the (n-1)-gram of the last words; 0 for words.
        word: `[N]` the number of the last word.
        counts: `[N]` how often the n-gram occurs in the text.
        begins: `[N]` whether the first word is the start of a sentence.
    """

    first: np.ndarray
    last: np.ndarray
    word: np.ndarray
    counts: np.ndarray
    begins: np.ndarray


@dataclass(frozen=True, slots=True)
class Estimate:
    """Probabilities of the n-grams of one order.

    Attributes:
        probabilities: `[N]` of the last word behind the first ones.
        backoffs: `[N]` weight of the shorter context where the n-gram is a context.
        kept: `[N]` whether the n-gram is written; False for pruned ones.
        discounts: what is subtracted from counts of 1, 2 and at least 3.
        is_estimated: whether the discounts are estimated from the text, not fallback values.
    """

    probabilities: np.ndarray
    backoffs: np.ndarray
    kept: np.ndarray
    discounts: tuple[float, float, float]
    is_estimated: bool


def read_sentences(path: str | Path) -> Iterator[list[str]]:
    """Yields the words of each line of a UTF-8 text, which gzip may have compressed.

    Raises:
        UserError: the file cannot be read, or contains a reserved word such as `<s>`.
    """
    opening = gzip.open if str(path).endswith(".gz") else open
    try:
        with opening(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                words = line.split()
                for word in (BEGIN, END, UNKNOWN):
                    if word in words:
                        raise UserError.expected(
                            f"text without the reserved word {word}",
                            f"{path}, line {number}",
                            "Remove it from the text",
                        )
                if words:
                    yield words
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = f"{path}: {getattr(error, 'strerror', None) or error}"
        raise UserError.expected("a UTF-8 text file", reason, "Correct the file") from error


def count_ngrams(sentences: Iterable[Sequence[str]], order: int) -> tuple[list[str], list[Ngrams]]:
    """Counts all n-grams of sentences with their start and end.

    Args:
        sentences: words of each sentence.
        order: length of the longest n-grams, 1 to `MAX_ORDER`.

    Returns:
        The words, with `<unk>`, `<s>` and `</s>` first; and the n-grams of orders 1 to `order`.

    Raises:
        UserError: there are no words.
    """
    numbers = {UNKNOWN: 0, BEGIN: 1, END: 2}
    text: list[np.ndarray] = []
    for sentence in sentences:
        found = [numbers.setdefault(word, len(numbers)) for word in sentence]
        text.append(np.array([1, *found, 2], np.int32))
    if not text:
        raise UserError.expected("sentences of words", "an empty text", "Give another text")
    tokens = np.concatenate(text).astype(np.int64)
    place = np.concatenate([np.arange(len(x)) for x in text])  # in its sentence
    size = len(numbers)
    counts = np.bincount(tokens, minlength=size)
    zeros = np.zeros(size, np.int64)
    word = np.arange(size)
    all_ngrams = [Ngrams(zeros, zeros, word, counts, word == 1)]
    last = tokens  # of each position, the n-gram that ends there
    for length in range(2, order + 1):
        ends = np.flatnonzero(place >= length - 1)
        keys, index, inverse, counts = np.unique(
            last[ends - 1] * size + tokens[ends],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        first = keys // size
        ngrams = Ngrams(
            first=first,
            last=last[ends[index]],
            word=keys % size,
            counts=counts,
            begins=all_ngrams[-1].begins[first],
        )
        all_ngrams.append(ngrams)
        current = np.full(len(tokens), -1, np.int64)
        current[ends] = inverse
        last = current
    return list(numbers), all_ngrams


def estimate(all_ngrams: Sequence[Ngrams], pruned_counts: Sequence[int] = ()) -> list[Estimate]:
    """Estimates the probabilities of n-grams.

    Each order is interpolated with the shorter one, and words with a uniform distribution over
    all words with `<unk>` and `</s>`. The probabilities of all words behind a context sum to 1.

    Args:
        all_ngrams: n-grams of orders 1 to N.
        pruned_counts: for each order, n-grams that occur so many times or less are left out. Orders
            beyond the end use the last value; the default keeps all. Words are always kept.

    Returns:
        The estimate for each order.

    Source: Chen and Goodman, An empirical study of smoothing techniques for language modeling
        (1998), section 4; Heafield et al., Scalable modified Kneser-Ney language model estimation
        (2013), section 3.
    """
    found: list[Estimate] = []
    for number, ngrams in enumerate(all_ngrams):
        counts = ngrams.counts
        if number + 1 < len(all_ngrams):  # number of different words in front
            continued = np.bincount(all_ngrams[number + 1].last, minlength=len(counts))
            counts = np.where(ngrams.begins, counts, continued)
        if number == 0:
            counts = np.where(ngrams.begins, 0, counts)  # nothing predicts the start of a sentence
        limit = pruned_counts[min(number, len(pruned_counts) - 1)] if pruned_counts else 0
        kept = (ngrams.counts > limit) | (number == 0)
        discounts, is_estimated = _discounts(counts)
        taken = np.array([0.0, *discounts])[np.minimum(counts, 3)]
        contexts = len(all_ngrams[number - 1].counts) if number else 1
        totals = np.bincount(ngrams.first, counts, contexts)
        freed = np.bincount(ngrams.first, np.where(kept, taken, counts), contexts)
        with np.errstate(invalid="ignore"):
            weights = np.where(totals > 0, freed / totals, 1.0)  # of the shorter context
        if number:
            shorter = found[-1].probabilities[ngrams.last]
            found[-1] = _with_backoffs(found[-1], weights)
        else:
            shorter = np.where(ngrams.begins, 0.0, 1.0 / (len(counts) - 1))
        own = np.where(kept, counts - taken, 0.0) / np.maximum(totals, 1)[ngrams.first]
        probabilities = own + weights[ngrams.first] * shorter
        ones = np.ones(len(counts))
        found.append(Estimate(probabilities, ones, kept, discounts, is_estimated))
    return found


def _with_backoffs(found: Estimate, backoffs: np.ndarray) -> Estimate:
    return Estimate(found.probabilities, backoffs, found.kept, found.discounts, found.is_estimated)


def _discounts(counts: np.ndarray) -> tuple[tuple[float, float, float], bool]:
    """Returns the discounts for counts of 1, 2 and more, and whether the counts define them."""
    one, two, three, four = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    if one and two and three and four:
        ratio = one / (one + 2 * two)
        found = (
            1 - 2 * ratio * two / one,
            2 - 3 * ratio * three / two,
            3 - 4 * ratio * four / three,
        )
        if all(0 < value < number for number, value in enumerate(found, 1)):
            return found, True
    return FALLBACK_DISCOUNTS, False


def arpa_lines(
    words: Sequence[str], all_ngrams: Sequence[Ngrams], estimates: Sequence[Estimate]
) -> Iterator[str]:
    """Yields the lines of an ARPA file.

    Args:
        words: text of each word.
        all_ngrams: n-grams of orders 1 to N.
        estimates: their probabilities.
    """
    yield "\\data\\\n"
    for number, found in enumerate(estimates, 1):
        yield f"ngram {number}={int(found.kept.sum())}\n"
    texts: list[str] = [""]
    for number, (ngrams, found) in enumerate(zip(all_ngrams, estimates, strict=True), 1):
        yield f"\n\\{number}-grams:\n"
        probabilities, backoffs = _log10(found.probabilities), _log10(found.backoffs)
        rows = zip(ngrams.first.tolist(), ngrams.word.tolist(), strict=True)
        texts = [f"{texts[first]} {words[word]}" if texts[first] else words[word]
                 for first, word in rows]  # fmt: skip
        for index in np.flatnonzero(found.kept).tolist():
            backoff = f"\t{backoffs[index]:.7g}" if number < len(estimates) else ""
            yield f"{probabilities[index]:.7g}\t{texts[index]}{backoff}\n"
    yield "\n\\end\\\n"


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(values), _NEVER)
