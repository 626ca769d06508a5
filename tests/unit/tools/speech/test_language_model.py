"""Language models: what is missing or broken is told in one line."""

import importlib.util

import pytest

from tests.support.errors import refused
from tools.speech.language_model import (
    BeamSearch,
    load_ngram,
    optional_package,
    words_of_arpa,
)

ARPA = """\\data\\
ngram 1=4
ngram 2=1

\\1-grams:
-1.0\t<unk>
-1.0\t<s>\t-0.3
-1.0\t</s>
-0.5\tBEAD\t-0.2

\\2-grams:
-0.1\t<s> BEAD

\\end\\
"""


def test_words_of_an_arpa_file(tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    assert words_of_arpa(path) == ["<unk>", "<s>", "</s>", "BEAD"]
    path.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\x00")
    assert words_of_arpa(path) is None
    path.write_text(ARPA.partition("\\2-grams")[0].replace("\n-0.5", "\n\n-0.5"))
    assert words_of_arpa(path) == ["<unk>", "<s>", "</s>", "BEAD"]


def test_a_model_of_words_has_its_probabilities(tmp_path):
    pytest.importorskip("kenlm", reason="the extra [beam] is not installed")
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    model = load_ngram(path)
    assert model.order == 2
    # <s> BEAD is a pair of the model; behind it </s> stands alone, with BEAD's weight.
    assert model.score("BEAD") == pytest.approx(-0.1 - 0.2 - 1.0)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with refused(match=r"package kenlm .*--beam"):
        optional_package("kenlm")


@pytest.mark.parametrize("width", [0, -1, 2001])
def test_impossible_widths_are_refused(width):
    with refused("--beam_width"):
        BeamSearch(width)


@pytest.mark.parametrize("width", [1, 2000])
def test_widths_up_to_the_limits_are_taken(width):
    assert BeamSearch(width).width == width


@pytest.mark.parametrize("name", ["weight", "word_bonus"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_are_finite(name, value):
    with refused("finite numbers for --lm_weight and --word_bonus"):
        BeamSearch(**{name: value})


def test_a_model_that_cannot_be_read_is_one_line(tmp_path):
    pytest.importorskip("kenlm", reason="the extra [beam] is not installed")
    path = tmp_path / "model.arpa"
    for content in (None, "no model"):
        if content is not None:
            path.write_text(content)
        with refused("model.arpa"):
            load_ngram(path)
