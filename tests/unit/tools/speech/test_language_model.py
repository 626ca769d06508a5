"""Language models: what is missing or broken is told in one line."""

import importlib.util

import pytest

from tools.errors import UserError
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


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"package kenlm .*--beam") as caught:
        optional_package("kenlm")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [0, -1, 2001])
def test_impossible_widths_are_refused(width):
    with pytest.raises(UserError, match="--beam_width"):
        BeamSearch(width)


def test_a_model_that_cannot_be_read_is_one_line(tmp_path):
    pytest.importorskip("kenlm", reason="the extra [beam] is not installed")
    path = tmp_path / "model.arpa"
    for content in (None, "no model"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError, match=r"model\.arpa") as caught:
            load_ngram(path)
        assert "\n" not in str(caught.value)
