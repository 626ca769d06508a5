"""The benchmark of hot words: its lists, its counts, and its table on a stand-in for a model."""

import json

import pytest

from tests.support.errors import refused
from tests.support.spelling import PIPELINE, RATE_HZ, SURFACES, Spelling, sound_of
from tools.benchmark import hotwords, word_lists
from tools.benchmark.hotwords import Corpus, count_phrases
from tools.recognition.beams import ctc_beam_search, hot_words_of
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.options import SearchOptions
from tools.recognition.session import SpeechSession
from tools.speech.audio import AudioLimits


def test_lists_have_200_words_and_20_names_and_no_sentence_twice_in_training_and_test(tmp_path):
    assert word_lists.main(["--output_dir", str(tmp_path / "lists")]) == 0
    lists = {
        path.stem: path.read_text().splitlines() for path in (tmp_path / "lists").glob("*.txt")
    }
    words, names = set(lists["words"]), set(lists["names"])
    assert (len(words), len(names)) == (len(lists["words"]), len(lists["names"])) == (200, 20)
    assert not words & names
    assert not set(lists["sentences"]) & set(lists["sentences_for_tests"])
    assert {x for text in lists["sentences"] for x in text.split()} == words
    for text in lists["sentences_for_tests"]:
        assert set(text.split()) <= words
    for text in lists["sentences_with_names"]:
        assert len(set(text.split()) & names) == 1 and set(text.split()) <= words | names
    again = word_lists.lists()
    assert {f"{name}.txt": lines for name, lines in lists.items()} == again
    with refused("--output_dir DIR"):
        word_lists.main([])


def test_phrases_are_counted_as_whole_words():
    said = ["ANN SAW ANN", "NEW YORK", "A HANNA", "B"]
    found = ["ANN SAW HANN", "NEW YORK NEW YORK", "A ANN  ANN", "B"]
    counts = count_phrases(said, found, ["ANN", "NEW YORK"])
    assert counts == (3, 2, 3, 2), "said, found, wrong, texts with wrong ones"


class Doubtful(Spelling):
    """A model that hears B as C, with B a little less probable."""

    def run(self, inputs, signature="serving_default"):
        found = super().run(inputs, signature)
        place = SURFACES.index("B"), SURFACES.index("C")
        logits = found["logits"]
        heard_b = logits[..., place[0]] > 0
        logits[heard_b] = 0.0
        logits[heard_b, place[0]], logits[heard_b, place[1]] = 29.0, 30.0
        return found


def opened(**options):
    search = SearchOptions(**options)
    words = hot_words_of(PIPELINE, search.hotwords, lambda pipeline: str.upper)
    beam = search.beam_search()
    beam = beam and ctc_beam_search(PIPELINE, beam, hot_words=words)
    limits = AudioLimits(RATE_HZ, 0.02, 60.0)
    return SpeechSession(Doubtful(), CtcDecoder(PIPELINE, beam, hot_words=words), limits)


@pytest.fixture
def names(tmp_path):
    (tmp_path / "names.txt").write_text("ab\n")
    return str(tmp_path / "names.txt")


def test_the_table_shows_what_hot_words_and_a_language_model_change(names, tmp_path):
    texts = ["AB", "D AB", "AB E"], ["D AD", "DE", "EB", "H"]
    corpora = [Corpus([sound_of(text) for text in some], some) for some in texts]
    (tmp_path / "words.arpa").write_text(
        "\\data\\\nngram 1=7\n\n\\1-grams:\n-9\t<unk>\n-9\t<s>\n-1\t</s>\n-1\tEB\n-1\tDE\n"
        "-1\tD\n-1\tAD\n\n\\end\\\n"
    )
    report = hotwords.measure(
        opened,
        names=names,
        corpora=lambda session: tuple(corpora),
        beam_width=4,
        lm_path=str(tmp_path / "words.arpa"),
    )
    rows = {row["search"]: row for row in report["rows"]}
    for search in ("greedy", "beam 4"):
        plain, hot = rows[search], rows[f"{search}, hot words"]
        assert (plain["num_found"], plain["num_names"], hot["recall"]) == (0, 3, 1.0)
        assert (hot["num_wrong"], hot["num_without_names"]) == (0, 4)
        assert plain["wer_with_names"] == pytest.approx(3 / 5) and hot["wer_with_names"] == 0.0
        assert plain["wer_without_names"] == hot["wer_without_names"] == pytest.approx(1 / 5)
    assert rows["beam 4, language model"]["texts"]["without_names"][2] == "EB"
    table = hotwords.lines(report)
    assert table[1].startswith("greedy, hot words: 3 of 3 names found (100%); names in 0 of 4")
    assert "% fewer word errors" in table[-1]
    assert json.dumps(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=m", "--names=n", "--with_names=a"], "--without_names DIR"),
        (["--model=m", "--names=n", "--with_names=a", "--without_names=b"], "file of hot words"),
    ],
)
def test_bad_flags_are_one_line(arguments, message):
    with refused(message):
        hotwords.main(arguments)
