"""Transcripts in one form, and in the case of a recognizer."""

import unicodedata

import pytest

from tools.speech.transcripts import normalization, normalize_transcript


def test_normalization():
    text = "  six,\u00a042 \u20ac!\tcafe\u0301 \u00df\u3000x "
    assert normalize_transcript(text) == "SIX, 42 \u20ac! CAF\u00c9 SS X"
    assert unicodedata.is_normalized("NFC", normalize_transcript(text))
    assert normalize_transcript(" \t ") == ""
    assert normalize_transcript(text, case=str.lower) == "six, 42 \u20ac! caf\u00e9 \u00df x"


@pytest.mark.parametrize(
    ("surfaces", "text"),
    [
        (["", " ", "\u2047", "'", "A", "\u00c9"], "CAF\u00c9 SS"),
        (["", " ", "<unk>", "a", "\u00df"], "caf\u00e9 \u00df"),
        (["a", "B"], "Caf\u00e9 \u00df"),
        (["\u6f22", "'", "<UNK>"], "Caf\u00e9 \u00df"),
    ],
    ids=["upper", "lower", "both", "none"],
)
def test_transcripts_take_the_case_of_what_a_recognizer_writes(surfaces, text):
    assert normalization(surfaces)(" Cafe\u0301  \u00df") == text
