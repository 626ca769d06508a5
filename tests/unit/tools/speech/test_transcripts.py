"""Transcripts in one form, and in the case of a recognizer."""

import sys
import unicodedata

import pytest

from tools.speech.transcripts import lower, normalization, normalize_transcript


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


INVISIBLE = "\u200b\ufeff\u00ad\u200e\u202b\u2060\u200d\x00\x7f\ufe0f\u034f"


def test_invisible_characters_are_left_out_but_for_symbols():
    text = "".join(f"{x}A" for x in INVISIBLE)
    assert normalize_transcript(f"{text} B\u200b \u200b C") == f"{'A' * len(INVISIBLE)} B C"
    # A mark joins its letter once nothing is between them.
    assert normalize_transcript("E\u200b\u0301") == "\u00c9"
    persian = normalization([" ", "\u0645", "\u200c"])
    assert persian("\u0645\u200c\u0645\u200b") == "\u0645\u200c\u0645"


def test_the_turkish_dotted_capital_has_no_dot_left():
    assert normalization(["i", "s"])("\u0130S") == "is"
    assert normalization(["i", "s"])("i\u0307s") == "is"
    assert normalization(["\u0130", "S"])("\u0130S") == "\u0130S"


def test_every_character_of_unicode_has_one_form():
    """Composed or not, twice or once, alone or inside a word; tables: `unicodedata`."""
    characters = [chr(x) for x in range(sys.maxunicode + 1) if not 0xD800 <= x < 0xE000]
    assigned = [x for x in characters if unicodedata.category(x) not in ("Cn", "Co")]
    for case in (str.upper, lower, str):
        # A letter stands between them, as two characters may compose.
        text = "x".join(assigned)
        once = normalize_transcript(text, case)
        assert unicodedata.is_normalized("NFC", once)
        assert normalize_transcript(once, case) == once
        assert normalize_transcript(unicodedata.normalize("NFD", text), case) == once
        kinds = {unicodedata.category(x) for x in once}
        assert not kinds & {"Cc", "Cf", "Zl", "Zp"}


def test_phones_have_a_case_behind_their_spaces():
    assert normalization(["", " t", " t\u0283", " \u2047"])("T O") == "t o"
