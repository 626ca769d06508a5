"""Words of pieces, however the labels are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.decoding.timestamps import Piece, words_of


def pieces(*texts):
    """A second for each piece, with a pause of as much behind it."""
    return [Piece(text, 2.0 * number, 2.0 * number + 1) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("NO ONE", [("NO", 0, 3), ("ONE", 6, 11)]),
        ((" TH", "REE", " FO", "UR"), [("THREE", 0, 3), ("FOUR", 4, 7)]),
        (("ONE ", "TWO"), [("ONE", 0, 1), ("TWO", 2, 3)]),
        (("A", "B C", "D"), [("AB", 0, 3), ("CD", 2, 5)]),
        ((" ", "", "A", " ", " "), [("A", 4, 5)]),
        (("A", "", "B"), [("AB", 0, 5)]),
        ((), []),
    ],
)
def test_words_last_from_their_first_to_their_last_piece(texts, words):
    assert [word[:3] for word in words_of(pieces(*texts))] == words


@given(st.lists(st.text(" AB", max_size=4)))
def test_words_are_those_of_the_text_and_follow_one_another(texts):
    found = words_of(pieces(*texts))
    assert [word.text for word in found] == "".join(texts).split()
    assert all(word.start_seconds < word.end_seconds for word in found)
    assert all(a.start_seconds <= b.start_seconds for a, b in itertools.pairwise(found))


def test_a_word_is_as_certain_as_its_least_certain_token():
    given = [(" A", 0.9, 1), ("B", 0.2, 2), (" C", 0.7, 3), ("D ", 0.8, 4), ("", 0.1, 5)]
    found = words_of(Piece(text, 0.0, 1.0, confidence, n) for text, confidence, n in given)
    assert [word[3:] for word in found] == [(0.2, (1, 2)), (0.7, (3, 4))]
