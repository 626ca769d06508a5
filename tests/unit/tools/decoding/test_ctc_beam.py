"""CTC beam search against sums over all paths, and against pyctcdecode with its own settings."""

import itertools
import logging
from collections import defaultdict

import numpy as np
import pytest

from tests.support.errors import refused
from tools.decoding.arpa import read_arpa
from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.ctc_beam import CtcBeamSearch
from tools.decoding.fusion import Fusion, KenlmFusion, open_fusion, words_of_kenlm
from tools.decoding.hotwords import HotWord
from tools.decoding.kneser_ney import arpa_lines, count_ngrams, estimate
from tools.decoding.options import BeamSearch

LETTERS = "ABCD"
SURFACES = ["", *LETTERS, " "]
UNLIMITED = {"token_min": -np.inf, "beam_prune": -np.inf}


def text_of(hypothesis, surfaces=SURFACES):
    return " ".join("".join(surfaces[token] for token in hypothesis.tokens).split())


def decoded(search, logits, cuts=()):
    """Returns the state of a search after one row, which is cut at some frames."""
    state = search.start(1)
    for first, last in itertools.pairwise([0, *cuts, len(logits)]):
        state = search.advance(state, logits[None, first:last], np.array([last - first]))
    return state


def best_text(search, logits):
    (found,) = search.finish(decoded(search, logits))
    return text_of(found)


@pytest.fixture(scope="module")
def sentences():
    rng = np.random.default_rng(5)
    words = sorted({"".join(rng.choice([*LETTERS], rng.integers(1, 5))) for _ in range(40)})
    return [" ".join(rng.choice(words, rng.integers(2, 7))) for _ in range(120)]


@pytest.fixture(scope="module")
def arpa(sentences, tmp_path_factory):
    """Writes a 4-gram of the sentences."""
    words, ngrams = count_ngrams([x.split() for x in sentences], 4)
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    path.write_text("".join(arpa_lines(words, ngrams, estimate(ngrams))))
    return path


@pytest.fixture(scope="module")
def spoken(sentences):
    """Returns noisy logits of sentences, the last of which is so long that the tree is pruned."""
    rng = np.random.default_rng(1)
    texts, found = [*sentences[:8], " ".join(sentences[:12])], []
    for number, text in enumerate(texts):
        path = [symbol for x in text for symbol in [SURFACES.index(x)] * rng.integers(1, 3) + [0]]
        logits = (1 + number % 3 / 2) * rng.normal(size=(len(path), len(SURFACES)))
        logits[np.arange(len(path)), path] += 4
        logits[-2:] += 40 * np.eye(len(SURFACES))[path[-2:]]  # no text ends with a space
        found.append(logits.astype("float32"))
    return found


@pytest.mark.parametrize(
    ("order", "width"),
    [(0, 100), (0, 7), (4, 100), (4, 12)],
)
def test_the_best_texts_are_those_of_pyctcdecode(arpa, spoken, order, width):
    pyctcdecode = pytest.importorskip("pyctcdecode", reason="the extra [peers] is not installed")
    kenlm = pytest.importorskip("kenlm", reason="the extra [beam] is not installed")
    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    fusion = peer_model = None
    if order:
        model = read_arpa(arpa)
        fusion = Fusion(model)
        peer_model = pyctcdecode.LanguageModel(kenlm.Model(str(arpa)), model.vocabulary())
    alphabet = pyctcdecode.Alphabet.build_alphabet(SURFACES)
    peer = pyctcdecode.BeamSearchDecoderCTC(alphabet, peer_model)
    search = CtcBeamSearch(SURFACES, 0, BeamSearch(width), fusion)
    expected = [peer.decode(logits, beam_width=width) for logits in spoken]
    assert [best_text(search, logits) for logits in spoken] == expected


def sums_over_paths(logits, surfaces):
    """Returns the log-probability of each text, summed over all paths."""
    scores = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    found = defaultdict(lambda: -np.inf)
    for path in itertools.product(range(len(surfaces)), repeat=len(logits)):
        text = "".join(surfaces[x] for x, _ in itertools.groupby(path))
        found[text] = np.logaddexp(found[text], scores[np.arange(len(logits)), path].sum())
    return dict(found)


def test_an_unlimited_beam_has_all_texts_with_their_probabilities(rng):
    surfaces = ["A", "", "B", "", "C"]  # two symbols without text act like the blank
    search = CtcBeamSearch(surfaces, 1, BeamSearch(2000, **UNLIMITED), keeps_history=True)
    logits = rng.normal(size=(5, 5)).astype("float32")
    (ranked,) = search.n_best(decoded(search, logits), 1000)
    expected = sums_over_paths(logits.astype("float64"), surfaces)
    assert {text_of(x.hypothesis, surfaces) for x in ranked} == expected.keys()
    assert len(ranked) == len(expected), "distinct texts"
    for one in ranked:
        score = expected[text_of(one.hypothesis, surfaces)]
        assert one.score == one.hypothesis.log_probability == pytest.approx(score, abs=1e-5)
    scores = [one.score for one in ranked]
    assert scores == sorted(scores, reverse=True)
    assert search.n_best(decoded(search, logits), 3)[0][2].score == scores[2]


@pytest.mark.parametrize("width", [1, 3])
def test_no_score_exceeds_the_sum_over_all_paths(rng, width):
    surfaces = ["", "A", "B"]
    search = CtcBeamSearch(surfaces, 0, BeamSearch(width))
    for _ in range(20):
        logits = rng.normal(size=(6, 3)).astype("float32")
        expected = sums_over_paths(logits.astype("float64"), surfaces)
        (ranked,) = search.n_best(decoded(search, logits), width)
        for one in ranked:
            assert one.score <= expected[text_of(one.hypothesis, surfaces)] + 1e-6


def test_cuts_and_other_rows_change_nothing(arpa, spoken):
    search = CtcBeamSearch(SURFACES, 0, BeamSearch(20), Fusion(read_arpa(arpa)))
    rows = spoken[:3]
    batch = np.full((3, max(map(len, rows)), len(SURFACES)), 50.0, "float32")
    for row, logits in zip(batch, rows, strict=True):
        row[: len(logits)] = logits
    together = search.advance(search.start(3), batch, np.array([*map(len, rows)]))
    for logits, ranked in zip(rows, search.n_best(together, 3), strict=True):
        (cut,) = search.n_best(decoded(search, logits, (1, 1, 7, len(logits) - 1)), 3)
        for one, other in zip(ranked, cut, strict=True):
            assert one.score == other.score
            for mine, theirs in zip(one.hypothesis, other.hypothesis, strict=True):
                np.testing.assert_array_equal(mine, theirs)
    assert search.finish(search.start(2))[1].tokens.tolist() == []


def test_sure_frames_have_the_tokens_and_frames_of_greedy_search(rng):
    path = [5, 1, 1, 0, 1, 2, 0, 0, 5, 5, 3, 3]
    logits = (30.0 * np.eye(6)[path]).astype("float32")
    greedy = CtcGreedySearch(0)
    (expected,) = greedy.finish(decoded(greedy, logits))
    search = CtcBeamSearch(SURFACES, 0, BeamSearch(10))
    (found,) = search.finish(decoded(search, logits))
    for mine, theirs in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_weights_of_0_change_nothing(arpa, spoken):
    plain = CtcBeamSearch(SURFACES, 0, BeamSearch(20))
    weightless = CtcBeamSearch(
        SURFACES,
        0,
        BeamSearch(20, weight=0.0),
        Fusion(read_arpa(arpa)),
        hot_words=[HotWord("DD", 0.0)],
    )
    for logits in spoken[:6]:
        assert best_text(weightless, logits) == best_text(plain, logits)


def test_a_space_at_the_end_adds_no_word(arpa):
    """pyctcdecode scores an unknown empty word there, and an empty text as one word."""
    model = read_arpa(arpa)
    search = CtcBeamSearch(SURFACES, 0, BeamSearch(20), Fusion(model))
    state, ends = model.start(), []
    for path in ([0], [1, 5], [1, 0]):
        logits = (40.0 * np.eye(6)[path]).astype("float32")
        ((best, *_),) = search.n_best(decoded(search, logits), 3)
        ends.append((text_of(best.hypothesis), best.score))
    assert [text for text, _ in ends] == ["", "A", "A"]
    assert ends[1][1] == pytest.approx(ends[2][1], abs=1e-5)
    log10 = model.score(state, "</s>")[0]
    assert ends[0][1] == pytest.approx(0.5 * log10 * np.log(10.0), abs=1e-5)


def test_kenlm_gives_the_same_scores(arpa, spoken):
    kenlm = pytest.importorskip("kenlm", reason="the extra [beam] is not installed")
    model = read_arpa(arpa)
    fusions = Fusion(model), KenlmFusion(kenlm.Model(str(arpa)), model.vocabulary())
    searches = [CtcBeamSearch(SURFACES, 0, BeamSearch(20), x) for x in fusions]
    for logits in spoken[:4]:
        own, peer = (search.n_best(decoded(search, logits), 5)[0] for search in searches)
        assert [text_of(x.hypothesis) for x in own] == [text_of(x.hypothesis) for x in peer]
        np.testing.assert_allclose([x.score for x in own], [x.score for x in peer], atol=1e-3)


def test_logits_that_are_not_numbers_give_no_score():
    search = CtcBeamSearch(SURFACES, 0, BeamSearch(5))
    (found,) = search.finish(decoded(search, np.full((3, 6), np.nan, "float32")))
    assert len(found.tokens) == 0 and np.isnan(found.log_probability)


def test_a_model_of_other_letters_or_without_words_is_refused(arpa, tmp_path):
    with refused(match="words of the letters xy.* like the vocabulary of the model"):
        CtcBeamSearch(["", "x", "y"], 0, BeamSearch(5), open_fusion(arpa))
    with refused(match="words of the letters Ā.* and 20 others"):
        CtcBeamSearch(["", *map(chr, range(0x100, 0x13C))], 0, BeamSearch(5), open_fusion(arpa))
    path = tmp_path / "subwords.arpa"
    for subword in ("\u2581A", "##A", "A@@"):
        path.write_text(arpa.read_text().replace("\tA\t", f"\t{subword}\t"))
        with refused(match=f"a language model of whole words.*{subword}, a subword of"):
            CtcBeamSearch(SURFACES, 0, BeamSearch(5), open_fusion(path))
    words, ngrams = count_ngrams([[*"ABCDE"]], 1)
    path.write_text("".join(arpa_lines(words, ngrams, estimate(ngrams))))
    with refused("Received: A B C D E, single letters."):
        CtcBeamSearch([*SURFACES, "E"], 0, BeamSearch(5), open_fusion(path))
    CtcBeamSearch(["", *"ABCDE"], 0, BeamSearch(5), open_fusion(path))  # without spaces
    path = tmp_path / "model.bin"
    path.write_bytes(b"mmap lm http://kheafield.com/code\0")
    with refused(match=r"with its words.*model\.bin"):
        words_of_kenlm(path)


@pytest.mark.parametrize("width", [0, -1, 2001])
def test_impossible_widths_are_refused(width):
    with refused("--beam_width"):
        BeamSearch(width)


@pytest.mark.parametrize("name", ["weight", "word_bonus"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_are_finite(name, value):
    with refused("finite numbers for --lm_weight and --word_bonus"):
        BeamSearch(**{name: value})
