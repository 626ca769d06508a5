"""Error rates as written, and without case and punctuation."""

import pytest

from tools.inference.report import SpeechRow
from tools.recognition.error_rates import error_rates, scored_text
from tools.speech.transcripts import plain_words

CASED, UPPER = ["", " The", "n", "."], ["", " THE", "N", "."]


def rows(*pairs, beam=None):
    return [SpeechRow(f"{n}.wav", 1.0, said, text, beam) for n, (said, text) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don\u2019t stop, it's 'here'!", "don't stop it's here"),
        ("well-known \u2014 U.S. (3.14)", "well known u s 3 14"),
        ("\u00c9tait-ce \u00ab l\u2019\u00e9t\u00e9 \u00bb ?", "\u00e9tait ce l'\u00e9t\u00e9"),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940\u0964 a_b 5'6 $5 x+y",
            "\u0939\u093f\u0928\u094d\u0926\u0940 a b 5 6 $5 x+y",
        ),
        ("...", ""),
    ],
)
def test_plain_words_have_no_case_and_no_punctuation(text, expected):
    assert plain_words(text) == expected
    assert plain_words(expected) == expected


@pytest.mark.parametrize(
    ("surfaces", "references", "expected"),
    [
        (CASED, ["THE END", "DON'T"], "normalized"),
        (CASED, ["the end"], "normalized"),
        (CASED, ["The end"], "raw"),
        (CASED, ["the end."], "raw"),
        (UPPER, ["THE END"], "raw"),
        (["", " the"], ["THE END"], "raw"),
    ],
)
def test_texts_are_normalized_where_only_the_model_writes_case(surfaces, references, expected):
    assert scored_text(references, surfaces) == expected


def test_both_rates_are_reported_and_one_of_them_comes_first():
    found = rows(("THE END", "The end."), ("A B C", "a b"))
    for kind, wer, others in (("raw", 1.0, (4, 1, 0)), ("normalized", 0.2, (0, 1, 0))):
        rates = error_rates(found, kind)
        assert rates["score_text"] == kind
        assert (rates["wer"], rates[kind]["wer"]) == (wer, wer)
        assert (rates["substitutions"], rates["deletions"], rates["insertions"]) == others
        assert (rates["raw"]["wer"], rates["normalized"]["wer"]) == (1.0, 0.2)
        assert rates["cer"] == rates[kind]["cer"]
    assert error_rates(found, None)["wer"] is None


def test_the_text_of_a_beam_search_has_both_rates():
    (row,) = rows(("THE END", "The"), beam="The end")
    rates = error_rates([row], "normalized")
    assert (rates["beam_wer"], rates["wer"]) == (0.0, 0.5)
    assert rates["raw"]["beam_wer"] == 1.0
