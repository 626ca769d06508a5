import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.speech.scoring import Score, character_distance, score


def distance(reference, hypothesis) -> int:
    """Levenshtein distance of two sequences, by the textbook's table."""
    row = list(range(len(hypothesis) + 1))
    for i, said in enumerate(reference, 1):
        above, row[0] = row[0], i
        for j, heard in enumerate(hypothesis, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (said != heard))
    return row[-1]


def test_known_errors():
    result = score(["one two three four", "five six"], ["one too three", "five six seven eight"])
    assert result == Score(
        wer=4 / 6,
        cer=(1 + 5 + 12) / 26,
        substitutions=1,
        deletions=1,
        insertions=2,
        num_words=6,
        num_characters=26,
        character_substitutions=1,
        character_deletions=5,
        character_insertions=12,
    )


def test_corpus_against_the_textbook():
    generator = random.Random(0)

    def text() -> str:
        return " ".join(generator.choices(["a", "b", "ab", "ba", "c"], k=generator.randrange(8)))

    references = [text() for _ in range(300)]
    hypotheses = [text() for _ in range(300)]
    assert "" in references and "" in hypotheses
    result = score(references, hypotheses)
    pairs = list(zip(references, hypotheses, strict=True))
    word_errors = sum(distance(said.split(), heard.split()) for said, heard in pairs)
    character_errors = sum(distance(said, heard) for said, heard in pairs)
    assert result.num_words == sum(len(said.split()) for said in references)
    assert result.num_characters == sum(len(said) for said in references)
    assert result.substitutions + result.deletions + result.insertions == word_errors
    assert result.wer == pytest.approx(word_errors / result.num_words)
    assert result.cer == pytest.approx(character_errors / result.num_characters)
    assert (
        result.character_substitutions + result.character_deletions + result.character_insertions
    ) == character_errors
    heard_words = sum(len(heard.split()) for heard in hypotheses)
    assert result.insertions - result.deletions == heard_words - result.num_words
    heard_characters = sum(map(len, hypotheses))
    surplus = result.character_insertions - result.character_deletions
    assert surplus == heard_characters - result.num_characters


def test_rates_are_of_the_corpus_and_no_mean_of_rates():
    result = score(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"])
    assert result.wer == pytest.approx(1 / 10)


def test_nothing_recognized():
    result = score(["one two", "three"], ["", " "])
    assert (result.wer, result.cer, result.deletions) == (1.0, 1.0, 3)


def test_nothing_said():
    result = score(["one two", "", " \t"], ["one two", "three four", "x"])
    assert (result.insertions, result.character_insertions) == (3, 11)
    assert (result.wer, result.cer) == (3 / 2, 11 / 7)


def test_no_reference_at_all():
    assert score([""], ["one two"]).wer == 2.0
    silent = score(["", ""], ["", ""])
    assert (silent.wer, silent.cer, silent.num_words) == (0.0, 0.0, 0)
    assert score([], []) == silent


def test_rates_above_one():
    assert score(["a"], ["b c d"]).wer == 3.0


def test_whitespace_is_folded_and_case_counts():
    assert score([" ONE\tTWO  THREE\n"], ["ONE TWO THREE"]).cer == 0.0
    assert score(["ONE\u00a0TWO"], ["ONE TWO"]).wer == 0.0
    assert score(["ONE"], ["one"]).substitutions == 1
    assert score(["don't"], ["dont"]).wer == 1.0
    assert score(["ÄÖ 東京"], ["ÄO 東京"]).cer == pytest.approx(1 / 5)


def test_numbers_of_texts_must_agree():
    with pytest.raises(ValueError, match="2 references but 1 hypotheses"):
        score(["a", "b"], ["a"])


@given(st.lists(st.tuples(st.text(" AB", max_size=6), st.text(" AB", max_size=6)), max_size=4))
def test_distances_count_every_space(pairs):
    references, hypotheses = [x for x, _ in pairs], [x for _, x in pairs]
    expected = sum(distance(*x) for x in pairs), sum(map(len, references))
    assert character_distance(references, hypotheses) == expected


def test_texts_are_compared_in_one_form():
    """Equal for a reader: marks apart or not, and what leaves no mark."""
    said = ["CAF\u00c9 ON\u200bE \ufeffTWO", "\ud55c\uad6d"]
    heard = ["CAFE\u0301 ONE T\u00adWO", "\u1112\u1161\u11ab\u1100\u116e\u11a8"]
    result = score(said, heard)
    assert (result.wer, result.cer, result.num_characters) == (0, 0, 12 + 2)
    assert character_distance(said, heard) == (0, 12 + 2)
