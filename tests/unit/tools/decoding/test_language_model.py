"""N-gram models: ARPA files, their cache, backoff, and training, against sums by hand and KenLM."""

import gzip
import itertools

import numpy as np
import pytest

from tests.support.errors import refused
from tools.cli import train_language_model
from tools.decoding.arpa import read_arpa
from tools.decoding.kneser_ney import arpa_lines, count_ngrams, estimate
from tools.decoding.language_model import is_kenlm, load_kenlm, load_ngrams, optional_package
from tools.decoding.ngrams import NgramModel

ARPA = """
\\data\\
ngram 1=5
ngram 2=3
ngram 3=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-1.0\t</s>
-0.5\tone\t-0.2
-7e-1\ttwo\t-0.4

\\2-grams:
-0.1\t<s> one\t-0.25
-0.3\ttwo one\t-0.75
-0.2\tone two

\\3-grams:
-0.05 <s> one two
-.15 two one </s>

\\end\\
"""
SENTENCES = ["a b", "a", "b a c a b", "c a b a", "a a a b", "d", "b c"]


def written(folder, text, name="words.arpa"):
    path = folder / name
    path.write_text(text)
    return path


def trained(sentences, order, pruned=()):
    words, ngrams = count_ngrams([x.split() for x in sentences], order)
    estimates = estimate(ngrams, pruned)
    return estimates, "".join(arpa_lines(words, ngrams, estimates))


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        # <s> one two is listed; behind it `one two </s>` and `two </s>` are not.
        ("one two", -0.1 - 0.05 + (-0.0 - 0.4 - 1.0)),
        # <s> two is not listed; two one </s> is.
        ("two one", (-0.3 - 0.7) - 0.3 - 0.15),
        # Behind an unknown word no context is left.
        ("one three one", -0.1 + (-0.25 - 0.2 - 1.0) - 0.5 + (-0.2 - 1.0)),
        ("", -0.3 - 1.0),
    ],
)
def test_sentences_have_the_sums_of_the_longest_ngrams(tmp_path, sentence, expected):
    model = read_arpa(written(tmp_path, ARPA))
    assert (model.order, len(model)) == (3, 10)
    assert model.score_sentence(sentence) == pytest.approx(expected)


def test_compressed_reordered_and_without_the_unknown_word(tmp_path):
    lines = ARPA.splitlines(keepends=True)
    first = lines.index("\\2-grams:\n") + 1
    lines[first : first + 3] = lines[first : first + 3][::-1]
    path = tmp_path / "words.arpa.gz"
    path.write_bytes(gzip.compress("".join(lines).replace("\n", "\r\n").encode()))
    expected, found = read_arpa(written(tmp_path, ARPA)), read_arpa(path)
    for sentence in ("one two one", "two one", "x one"):
        assert found.score_sentence(sentence) == expected.score_sentence(sentence)
    lines = [x for x in ARPA.splitlines(keepends=True) if "<unk>" not in x]
    found = read_arpa(written(tmp_path, "".join(lines).replace("1=5", "1=4")))
    assert found.score(0, "three")[0] == -100
    assert "three" not in found and "two" in found and "<unk>" not in found


def test_the_cache_holds_the_same_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = written(tmp_path, ARPA)
    first = load_ngrams(path)
    (folder,) = (tmp_path / "cache" / "conformer-zoo" / "language_models").iterdir()
    monkeypatch.setattr("tools.decoding.language_model.read_arpa", None)  # not read again
    again = load_ngrams(path)
    assert again.vocabulary() == first.vocabulary() == ["<unk>", "<s>", "</s>", "one", "two"]
    assert again.score_sentence("one two one") == first.score_sentence("one two one")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (folder / "words.npy").write_bytes(b"damaged")
    assert load_ngrams(path).score_sentence("two") == first.score_sentence("two")
    assert NgramModel.load(folder).order == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    assert load_ngrams(path).order == 3
    assert "not kept in the cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n\\end\\\n", "\n", r"\\end\\ at the end"),
        ("-.15 two one </s>\n\n\\end\\\n", "", r"\\end\\ at the end .* the end of the file"),
        ("-.15 two one </s>\n", "", "2 3-grams, as its head says, .* 1 before line"),
        ("ngram 3=2", "ngram 3=1", "1 3-grams, as its head says, .* more than 1"),
        ("ngram 1=5", "ngram 1=6", "6 1-grams, as its head says, .* 5 before"),
        ("ngram 2=3", "ngram 4=3", "ngram 2=N"),
        ("\\3-grams:", "\\4-grams:", r"the line \\3-grams:"),
        ("\\data\\", "\\date\\", r"\\data\\"),
        ("one two\n\n", "one two\tnan\n\n", "finite numbers.* line 17"),
        ("-0.5\tone\t-0.2", "-0.5\tone\tnan", "finite numbers.* line 11"),
        ("-.15 two", "-x.15 two", "finite numbers.* line 21"),
        ("-.15 two", ".15 two", "at most 0"),
        ("<s> one\t-0.25", "<s> one", "backoff weight of every 2-gram .* line 20"),
        ("two\t-0.4", "two", "backoff weight of every 1-gram .* line 16"),
        ("two one </s>", "two one three", "words that are among the 1-grams"),
        ("two one </s>", "one one </s>", "first words of every 3-gram among the 2-grams"),
        ("two one </s>", "two one </s> -0.1", "3 words between"),
        ("two one </s>", "two one", "3 words between"),
        ("two one </s>", "<s> one two", "every 3-gram once"),
        ("-7e-1\ttwo", "-7e-1\tone", "every word once.* one twice"),
        ("-7e-1\ttwo", "-7e-1\ttwo three", "1 words between"),
    ],
)
def test_broken_files_are_refused_in_one_line(tmp_path, old, new, message):
    assert ARPA.count(old) == 1
    with refused(match=message) as caught:
        read_arpa(written(tmp_path, ARPA.replace(old, new)))
    assert "words.arpa" in str(caught.value)


def test_missing_and_cut_files_are_refused(tmp_path):
    with refused("nowhere.arpa"):
        load_ngrams(tmp_path / "nowhere.arpa")
    packed = gzip.compress(ARPA.encode())
    path = tmp_path / "cut.arpa.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with refused("a whole file"):
        load_ngrams(path)
    path.write_bytes(ARPA.encode("utf-16"))
    with refused("\\data\\"):
        load_ngrams(path)


def test_a_small_text_has_the_probabilities_of_a_sum_by_hand():
    """Counts behind different words: a 1, b 1, </s> 2; discounts 0.5 and 1; 4 words of 1/4."""
    (words, pairs), _ = trained(["a b", "a"], 2)
    assert not words.is_estimated
    # <unk>, <s>, </s>, a, b
    np.testing.assert_allclose(words.probabilities, [0.125, 0, 0.375, 0.25, 0.25])
    np.testing.assert_allclose(words.backoffs, [1, 0.5, 1, 0.5, 0.5])
    # <s> a, a </s>, a b, b </s>
    np.testing.assert_allclose(pairs.probabilities, [0.625, 0.4375, 0.375, 0.6875])
    (words, pairs), text = trained(["a b", "a"], 2, (0, 1))
    np.testing.assert_allclose(words.backoffs, [1, 0.5, 1, 1, 1])
    assert pairs.kept.tolist() == [True, False, False, False]
    assert "ngram 2=1\n" in text


def test_discounts_come_from_the_counts_of_counts():
    """7 words once, 2 twice, 1 three times, 1 four times."""
    (words,), _ = trained(["s t u v w x b b c c d d d e e e e"], 1)
    assert words.is_estimated
    np.testing.assert_allclose(words.discounts, [7 / 11, 23 / 22, 5 / 11])


@pytest.mark.parametrize(("order", "pruned"), [(1, ()), (2, (0, 1)), (3, ()), (4, (0, 0, 1))])
def test_the_probabilities_behind_every_context_sum_to_1(tmp_path, order, pruned):
    model = read_arpa(written(tmp_path, trained(SENTENCES, order, pruned)[1]))
    words = [word for word in model.vocabulary() if word != "<s>"]
    for context in itertools.product(["<s>", "a", "b", "c", "x"], repeat=min(order, 3) - 1):
        state = 0
        for word in context:
            _, state = model.score(state, word)
        total = sum(10 ** model.score(state, word)[0] for word in words)
        assert total == pytest.approx(1.0, abs=1e-5)


def test_scores_are_those_of_kenlm(tmp_path, rng):
    kenlm = pytest.importorskip("kenlm", reason="the extra [beam] is not installed")
    path = written(tmp_path, trained(SENTENCES, 4)[1])
    model, peer = read_arpa(path), kenlm.Model(str(path))
    for _ in range(50):
        sentence = " ".join(rng.choice(["a", "b", "c", "d", "x"], rng.integers(0, 7)))
        assert model.score_sentence(sentence) == pytest.approx(peer.score(sentence), abs=1e-4)


def test_the_program_writes_a_model_that_is_read(tmp_path, capsys):
    text, output = tmp_path / "text.gz", tmp_path / "lm.arpa"
    text.write_bytes(gzip.compress("\n".join([*SENTENCES, ""]).encode()))
    assert train_language_model.main([f"--text={text}", f"--output={output}", "--order=3"]) == 0
    assert read_arpa(output).order == 3
    captured = capsys.readouterr()
    assert captured.out == "" and "7 1-grams" in captured.err
    assert output.read_text() == trained(SENTENCES, 3)[1]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--order=0"], "--order"),
        (["--order=9"], "--order"),
        (["--prune=1,0"], "--prune"),
        (["--prune=x"], "--prune"),
        (["--text=/nowhere/at/all"], "nowhere"),
        (["more"], "more"),
    ],
)
def test_bad_flags_of_the_program(tmp_path, flags, named):
    output = tmp_path / "lm.arpa"
    with refused(named):
        text = f"--text={written(tmp_path, 'a b', 'text')}"
        given = [] if flags[0].startswith("--text") else [text]
        train_language_model.main([*given, f"--output={output}", *flags])
    assert not output.exists()


@pytest.mark.parametrize(("text", "message"), [("\n \n", "an empty text"), ("a\na <s>", "line 2")])
def test_texts_without_words_or_with_reserved_words_are_refused(tmp_path, text, message):
    flags = [f"--text={written(tmp_path, text, 'text')}", f"--output={tmp_path / 'lm.arpa'}"]
    with refused(message):
        train_language_model.main(flags)


def test_the_text_is_not_replaced_by_its_model(tmp_path):
    text = written(tmp_path, "a b\n", "text")
    with refused("a result file that is no input"):
        train_language_model.main([f"--text={text}", f"--output={text}"])
    assert text.read_text() == "a b\n"


def test_kenlm_is_named_where_it_is_missing_or_cannot_read(tmp_path, monkeypatch):
    assert not is_kenlm(written(tmp_path, ARPA))
    assert not is_kenlm(tmp_path / "nowhere")
    path = tmp_path / "model.bin"
    path.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\x00")
    assert is_kenlm(path)
    pytest.importorskip("kenlm", reason="the extra [beam] is not installed")
    with refused("model.bin"):
        load_kenlm(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused(match=r"package kenlm .*--beam"):
        optional_package("kenlm")
