"""Hot words against counted words, in all searches: their scores, weight 0, and bad input."""

import re

import numpy as np
import pytest

from tests.support.errors import refused
from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.ctc_beam import CtcBeamSearch
from tools.decoding.greedy import GreedySearch
from tools.decoding.hot_graph import HotScores
from tools.decoding.hotwords import HotWord, Spellings, read_hot_words, spelled_hot_words
from tools.decoding.options import BeamSearch
from tools.decoding.options import TransducerBeamSearch as Options
from tools.decoding.tdt import TdtSearch
from tools.decoding.text import byte_surface
from tools.decoding.texts import Texts
from tools.decoding.transducer_beam import TransducerBeamSearch
from tools.recognition.beams import hot_words_of

SURFACES = ["", "A", "B", "C", " ", "AB", " C", "A "]


def score_of(words, symbols, surfaces=SURFACES):
    """Returns the score of a text, and that of the text before its end."""
    texts = Texts(surfaces, 0, BeamSearch(), hot_words=words)
    integers, floats = texts.start(1)
    for symbol in symbols:
        integers, floats, shares = texts.extended(integers, floats, np.array([symbol]))
    return texts.ended(integers, floats)[0], shares[0]


def total(word, surfaces=SURFACES):
    return word.weight * Spellings(surfaces).num_symbols(word.text)


@pytest.mark.parametrize("seed", range(5))
def test_a_text_scores_its_whole_words_however_symbols_cut_it(seed):
    rng = np.random.default_rng(seed)
    texts = {"".join(rng.choice([*"ABC"], rng.integers(1, 4))) for _ in range(6)}
    words = [HotWord(text, rng.uniform(0.5, 3)) for text in sorted(texts)]
    scores = HotScores(words, SURFACES, 0)
    for _ in range(20):
        symbols = rng.integers(1, len(SURFACES), 14).tolist()
        written = "".join(SURFACES[x] for x in symbols).split()
        expected = sum(total(word) * written.count(word.text) for word in words)
        assert score_of(words, symbols)[0] == pytest.approx(expected)
        # Greedy search has the same scores, without that of the end.
        node, sum_of_symbols = scores.start, 0.0
        for symbol in symbols:
            sum_of_symbols += scores.of(node)[symbol]
            node = scores.after(node, symbol)
        assert sum_of_symbols == pytest.approx(score_of(words, symbols)[1], abs=1e-5)
        assert scores.of(node)[0] == 0.0


def test_phrases_score_whole_and_parts_are_taken_back():
    words = [HotWord("AB CA", 2.0), HotWord("CA"), HotWord("AB CA BB", 1.0), HotWord("CC", 0.0)]

    def of(text):
        return score_of(words, [SURFACES.index(letter) for letter in text])

    whole = 2.0 * Spellings(SURFACES).num_symbols("AB CA")
    assert Spellings(SURFACES).num_symbols("AB CA") == 3  # "AB", " C", "A " or "A"
    assert of("AB CA") == pytest.approx((whole, whole))
    assert of("AB C")[0] == of("AB")[0] == of("C AB CAA")[0] == of("CC")[0] == 0.0
    assert 0.0 < of("A")[1] < of("AB")[1] < of("AB C")[1] < whole
    assert of("B CA AB")[0] == pytest.approx(total(words[1]))
    assert of("AB CA BA")[0] == pytest.approx(whole), "a longer phrase that breaks off"
    assert of("AB CA BB")[0] == pytest.approx(max(whole, total(words[2])))
    assert of("AB  CA ")[0] == pytest.approx(whole), "two spaces are one"


def test_a_vocabulary_without_spaces_has_phrases_anywhere():
    surfaces, words = ["", "X", "Y", "Z"], [HotWord("XY", 1.0)]
    assert score_of(words, [3, 1, 2, 1, 2, 1], surfaces)[0] == pytest.approx(4.0)


def test_bytes_write_what_the_letters_lack():
    surfaces = ["", "A", " ", *map(byte_surface, "ü".encode())]
    assert Spellings(surfaces).num_symbols("AüA") == 4
    word = HotWord("AüA", 1.0)
    assert score_of([word], [1, 3, 4, 1], surfaces)[0] == pytest.approx(4.0)
    assert score_of([word], [1, 3, 1], surfaces)[0] == 0.0


def transducer(seed):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(len(SURFACES), 5)).astype("float32")
    output = 2 * rng.normal(size=(5, len(SURFACES))).astype("float32")
    output[:, 0] += 0.5

    def call(inputs, signature):
        if signature == "predict":
            after = np.tanh(embeddings[inputs["tokens"][:, 0]] + inputs["states"])
            return {"predicted": after[:, None], "next_states": after}
        joined = np.tanh(inputs["encoded"] + inputs["predicted"]) @ output
        return {"logits": joined[:, :, None]}

    shape = {"blank": 0, "state_shape": (5,), "max_symbols_per_frame": 2}
    return call, shape


def with_durations(call):
    """Returns a token-and-duration transducer in which each symbol lasts for one frame."""

    def joined(inputs, signature):
        outputs = call(inputs, signature)
        if signature == "join":
            outputs["logits"] = np.pad(outputs["logits"], [(0, 0)] * 3 + [(0, 1)])
        return outputs

    return joined


def searches(seed, words):
    """Returns the searches and the width of their frames."""
    call, shape = transducer(seed)
    scores = HotScores(words, SURFACES, 0) if words else None
    texts = Texts(SURFACES, 0, BeamSearch(4), hot_words=words) if words else None
    return [
        (CtcGreedySearch(0, scores), len(SURFACES)),
        (CtcBeamSearch(SURFACES, 0, BeamSearch(6), hot_words=words), len(SURFACES)),
        (GreedySearch(call, **shape, hot_scores=scores, max_window=3), 5),
        (TransducerBeamSearch(call, **shape, options=Options(4), texts=texts), 5),
        (TdtSearch(with_durations(call), **shape, durations=[1], hot_scores=scores), 5),
    ]


def found(search, frames, lengths, cut=3):
    state = search.advance(search.start(2), frames[:, :cut], np.minimum(lengths, cut))
    state = search.advance(state, frames[:, cut:], np.maximum(lengths - cut, 0))
    return search.finish(state)


def test_greedy_search_of_a_transducer_follows_a_phrase_over_its_symbols():
    surfaces = ["", "A", "B", "C"]

    def call(inputs, signature):
        if signature == "predict":
            size = len(inputs["tokens"])
            return {"predicted": np.zeros((size, 1, 1)), "next_states": np.zeros((size, 1))}
        return {"logits": inputs["encoded"][:, :, None]}

    frames = np.array([[[0.0, 1.0, -9.0, -9.0], [0.0, -9.0, 0.5, 1.0]]], np.float32)
    heard = []
    for words in ([], [HotWord("AB", 2.0)]):
        scores = HotScores(words, surfaces, 0) if words else None
        shape = {"blank": 0, "state_shape": (1,), "max_symbols_per_frame": 1}
        search = GreedySearch(call, **shape, hot_scores=scores)
        state = search.advance(search.start(1), frames, np.array([2]))
        heard.append(search.finish(state)[0].tokens.tolist())
    assert heard == [[1, 3], [1, 2]], "AC, and AB"


@pytest.mark.parametrize("seed", range(3))
def test_hot_words_of_weight_0_change_nothing(seed):
    rng, lengths = np.random.default_rng(seed), np.array([9, 5])
    plain, weightless = searches(seed, []), searches(seed, [HotWord("AB", 0.0), HotWord("C", 0.0)])
    for (search, width), (other, _) in zip(plain, weightless, strict=True):
        frames = 2 * rng.normal(size=(2, 9, width)).astype("float32")
        for one, same in zip(
            found(search, frames, lengths), found(other, frames, lengths), strict=True
        ):
            for mine, theirs in zip(one, same, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_all_searches_prefer_hot_words_and_report_the_probability_without_them():
    counts = {0.0: [0] * 5, 3.0: [0] * 5}
    for seed in range(6):
        lengths = np.array([9, 9])
        for weight, count in counts.items():
            rng = np.random.default_rng(seed)
            words = [HotWord("AB", weight)]
            for place, (search, width) in enumerate(searches(seed, words)):
                frames = 2 * rng.normal(size=(2, 9, width)).astype("float32")
                for one in found(search, frames, lengths):
                    assert one.log_probability <= 1e-5
                    text = "".join(SURFACES[token] for token in one.tokens)
                    count[place] += text.split().count("AB")
    assert all(hot > plain for hot, plain in zip(counts[3.0], counts[0.0], strict=True)), counts


def test_a_ctc_beam_tries_improbable_symbols_of_a_phrase_and_no_others():
    """B is less probable than the limit of a symbol, e^-5, but the phrase AB makes up for it."""
    surfaces = ["", "A", "B", "C", " "]
    logits = np.full((1, 3, 5), -30.0, "float32")
    logits[0, [0, 1, 2], [1, 3, 0]] = 0.0
    logits[0, 1, 2] = -7.0
    texts = {}
    for words in ("AB", "BA", "AB C", "CB"):
        search = CtcBeamSearch(surfaces, 0, BeamSearch(8), hot_words=[HotWord(words, 5.0)])
        state = search.advance(search.start(1), logits, np.array([3]))
        (ranked,) = search.n_best(state, 8)
        texts[words] = {"".join(surfaces[x] for x in one.hypothesis.tokens) for one in ranked}
        best = ranked[0].hypothesis
        assert ("AB" if words == "AB" else "AC") == "".join(surfaces[x] for x in best.tokens)
    assert "AB" in texts["AB"] & texts["AB C"]
    assert not {"AB"} & (texts["BA"] | texts["CB"])


def test_phrases_of_many_improbable_symbols_are_all_tried():
    """More symbols begin a phrase here than may be above the limit for other symbols, e^-5."""
    surfaces = ["", *(chr(0x4E00 + number) for number in range(400))]
    words = [HotWord(text) for text in surfaces[1:]]
    logits = np.random.default_rng(0).normal(0, 0.1, (1, 4, 401)).astype("float32")
    logits[..., 0] += 5.0
    found = []
    for options in (BeamSearch(8), BeamSearch(8, token_min=-30.0)):
        search = CtcBeamSearch(surfaces, 0, options, hot_words=words)
        (ranked,) = search.n_best(search.advance(search.start(1), logits, np.array([4])), 8)
        found.append([one.hypothesis.tokens.tolist() for one in ranked])
    assert found[0] == found[1]
    assert any(found[0])


def test_repeated_symbols_of_ctc_are_no_second_letter():
    """The frames of one A cannot earn the score of AA."""
    logits = np.array([[0, 3, 0, 0], [0, 3, 0, 0], [3, 2.5, 0, 0]], "float32")[None]
    surfaces = ["", "A", "B", " "]
    scores = HotScores([HotWord("AA", 1.0)], surfaces, 0)
    search = CtcGreedySearch(0, scores)
    (one,) = search.finish(search.advance(search.start(1), logits, np.array([3])))
    assert one.tokens.tolist() == [1]
    plain = logits[0] - np.logaddexp.reduce(logits[0], axis=-1, keepdims=True)
    assert one.log_probability == pytest.approx(plain[[0, 1, 2], [1, 1, 0]].sum(), rel=1e-5)


def test_files_and_lists_name_phrases_with_weights(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\ufeffAnna  Meier\t2.5\n\nC\n", encoding="utf-8")
    expected = [HotWord("Anna Meier", 2.5), HotWord("C", 1.5)]
    assert read_hot_words(str(path)) == read_hot_words(["Anna Meier\t2.5", "C"]) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A\tx\n", r"weight of 0 to 100.*'x' in line 1 of .*words\.txt"),
        (b"A\nB\t-1\n", "'-1' in line 2"),
        (b"A\tnan\n", "'nan' in line 1"),
        (b"A\t101\n", "'101' in line 1"),
        (b"\n \n", r"hot words in .*words\.txt.*no phrase"),
        (b"\xff\xfe\n", "UTF-8"),
        (None, r"a file of hot words.*words\.txt: No such file"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with refused(match=message):
        read_hot_words(str(path))


def test_what_the_vocabulary_cannot_write_is_named_and_the_rest_is_used(capsys):
    surfaces = ["", " AB", "C", " "]
    words = [HotWord("ab"), HotWord("b"), HotWord("ab c", 2.0), HotWord("ab ü")]
    written, left_out = spelled_hot_words(words, surfaces, str.upper)
    assert written == [HotWord("AB"), HotWord("AB C", 2.0)]
    assert left_out == ["b", "ab ü"]
    pipeline = {"vocabulary": {"surfaces": surfaces}}
    lines = ["ab", "b", "ab c\t0"]

    def upper(pipeline):
        return str.upper

    assert hot_words_of(pipeline, lines, upper) == [HotWord("AB")]
    assert re.search("cannot write are left out: b$", capsys.readouterr().err.strip())
    assert hot_words_of(pipeline, None, upper) == []
    with refused(match="hot words that the vocabulary of the model can write.*b, xyz"):
        hot_words_of(pipeline, ("b", "xyz"), upper)
