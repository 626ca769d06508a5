"""Beam search of token-and-duration transducers against sums over all paths of random networks."""

import itertools
from collections import defaultdict

import numpy as np
import pytest

from tools.decoding.hotwords import HotWord
from tools.decoding.options import BeamSearch
from tools.decoding.options import TransducerBeamSearch as Options
from tools.decoding.tdt import TdtSearch
from tools.decoding.tdt_beam import TdtBeamSearch
from tools.decoding.texts import Texts

SYMBOLS, WIDTH, FRAMES = 3, 4, 3
SURFACES = [" A", "", "B"]  # the blank is symbol 1
EXACT = {"beam_prune": np.inf}


class Toy:
    """A transducer with durations of small random matrices; its state depends on all tokens."""

    def __init__(self, seed, durations=(0, 1, 2), blank_bonus=0.0, scale=2.0):
        rng = np.random.default_rng(seed)
        self.durations = durations
        self.embeddings, self.recurrent = rng.normal(size=(2, WIDTH, WIDTH))
        self.output = scale * rng.normal(size=(WIDTH, SYMBOLS + len(durations)))
        self.bias = np.eye(SYMBOLS + len(durations))[1] * blank_bonus
        self.sizes = []

    def call(self, inputs, signature):
        self.sizes.append(len(next(iter(inputs.values()))))
        if signature == "predict":
            embedded = self.embeddings[inputs["tokens"][:, 0]]
            after = np.tanh(embedded + inputs["states"] @ self.recurrent).astype("float32")
            return {"predicted": after[:, None], "next_states": after}
        joined = np.tanh(inputs["encoded"] + inputs["predicted"]) @ self.output + self.bias
        return {"logits": joined[:, :, None].astype("float32")}

    def exact(self, encoded, most, penalty=0.0):
        """Returns the log-probability of each sequence of tokens, summed over all paths.

        With a penalty, each blank of a path has this much less.
        """
        found = defaultdict(lambda: -np.inf)

        def logarithms(logits):
            return logits - np.logaddexp.reduce(logits)

        def visit(frame, symbols, tokens, states, total):
            if frame >= len(encoded):
                found[tokens] = np.logaddexp(found[tokens], total)
                return
            inputs = {"encoded": encoded[None, frame : frame + 1], "predicted": states[:, None]}
            logits = self.call(inputs, "join")["logits"][0, 0, 0].astype("float64")
            scores = logarithms(logits[:SYMBOLS]), logarithms(logits[SYMBOLS:])
            for token, place in itertools.product(range(SYMBOLS), range(len(self.durations))):
                gain, step = scores[0][token] + scores[1][place], self.durations[place]
                if token == 1:
                    visit(frame + max(step, 1), 0, tokens, states, total + gain - penalty)
                    continue
                given = {"tokens": np.array([[token]], np.int32), "states": states}
                after = self.call(given, "predict")["next_states"]
                stays = step == 0 and symbols + 1 < most
                place = (frame, symbols + 1) if stays else (frame + max(step, 1), 0)
                visit(*place, (*tokens, token), after, total + gain)

        start = {"tokens": np.array([[1]], np.int32), "states": np.zeros((1, WIDTH), np.float32)}
        visit(0, 0, (), self.call(start, "predict")["next_states"], 0.0)
        return dict(found)

    def search(self, most, options, penalty=0.0, texts=None):
        return TdtBeamSearch(
            self.call, blank=1, state_shape=(WIDTH,), durations=self.durations,
            max_symbols_per_frame=most, blank_penalty=penalty, options=options, texts=texts,
        )  # fmt: skip


def decoded(search, encoded, lengths, cuts=()):
    state = search.start(len(encoded))
    for first, last in itertools.pairwise([0, *cuts, encoded.shape[1]]):
        state = search.advance(
            state, encoded[:, first:last], np.clip(lengths - first, 0, last - first)
        )
    return state


def ranked_by_tokens(search, encoded, size=5000):
    state = decoded(search, encoded, np.array([encoded.shape[1]]))
    (ranked,) = search.n_best(state, size)
    found = {tuple(x.hypothesis.tokens.tolist()): x for x in ranked}
    assert len(found) == len(ranked)
    scores = [x.score for x in ranked]
    assert scores == sorted(scores, reverse=True)
    return found


@pytest.fixture
def encoded(rng):
    return rng.normal(size=(1, FRAMES, WIDTH)).astype("float32")


@pytest.mark.parametrize(
    ("durations", "most"), [((0, 1, 2), 1), ((0, 1, 2), 2), ((1, 3), 2), ((0, 2), 2)]
)
def test_an_unlimited_beam_has_all_sequences_with_their_probabilities(encoded, durations, most):
    toy = Toy(most, durations)
    expected = toy.exact(encoded[0], most)
    found = ranked_by_tokens(toy.search(most, Options(5000, **EXACT)), encoded)
    assert {k: x.score for k, x in found.items()} == pytest.approx(expected, abs=1e-5)
    assert np.logaddexp.reduce([*expected.values()]) == pytest.approx(0.0, abs=1e-5)
    assert all(x.score == x.hypothesis.log_probability for x in found.values())
    assert max(toy.sizes) <= 64


@pytest.mark.parametrize("options", [Options(1), Options(2), Options(3, beam_prune=1.0)])
def test_no_score_exceeds_the_sum_over_all_paths(encoded, options):
    for seed in range(4):
        toy = Toy(seed)
        expected = toy.exact(encoded[0], 2)
        found = ranked_by_tokens(toy.search(2, options), encoded, 9)
        assert found
        for tokens, one in found.items():
            assert one.score <= expected[tokens] + 1e-5


def test_a_penalty_of_the_blank_changes_the_scores_and_not_the_probabilities(encoded):
    toy = Toy(3, blank_bonus=1.0)
    expected, penalized = toy.exact(encoded[0], 2), toy.exact(encoded[0], 2, 1.5)
    for norm_score in (False, True):
        options = Options(5000, norm_score, **EXACT)
        found = ranked_by_tokens(toy.search(2, options, 1.5), encoded)
        for tokens, one in found.items():
            assert one.hypothesis.log_probability == pytest.approx(expected[tokens], abs=1e-5)
            size = max(len(tokens), 1) if norm_score else 1
            assert one.score == pytest.approx(penalized[tokens] / size, abs=1e-5)


@pytest.mark.parametrize("durations", [(0, 1, 2, 4), (0, 3)])
def test_a_narrow_beam_of_sure_symbols_is_greedy_search(rng, durations):
    encoded, lengths = 4 * rng.normal(size=(3, 12, WIDTH)).astype("float32"), np.array([12, 0, 7])
    toy = Toy(1, durations, blank_bonus=1.0, scale=60.0)
    greedy = TdtSearch(
        toy.call, blank=1, state_shape=(WIDTH,), durations=durations, max_symbols_per_frame=2
    )
    expected = greedy.finish(greedy.advance(greedy.start(3), encoded, lengths))
    search = toy.search(2, Options(4))
    found = search.finish(decoded(search, encoded, lengths))
    assert sum(len(x.tokens) for x in found) > 3
    for mine, theirs in zip(found, expected, strict=True):
        for own, peer in zip(mine[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(own, peer)
        np.testing.assert_allclose(mine.confidences, theirs.confidences, atol=1e-6)


def test_cuts_and_other_rows_change_nothing(rng):
    encoded, lengths = rng.normal(size=(3, 7, WIDTH)).astype("float32"), np.array([7, 2, 4])
    toy = Toy(2, (0, 1, 3), blank_bonus=1.0)
    search = toy.search(3, Options(3))
    together = search.n_best(decoded(search, encoded, lengths), 3)
    cut = search.n_best(decoded(search, encoded, lengths, (1, 1, 4)), 3)
    for row, length in enumerate(lengths):
        alone = decoded(search, encoded[row : row + 1, :length], lengths[row : row + 1])
        for other in (cut[row], search.n_best(alone, 3)[0]):
            for one, same in zip(together[row], other, strict=True):
                assert one.score == pytest.approx(same.score, abs=1e-6)
                for mine, theirs in zip(one.hypothesis[:3], same.hypothesis[:3], strict=True):
                    np.testing.assert_array_equal(mine, theirs)


def words(weight):
    return Texts(SURFACES, 1, BeamSearch(), hot_words=[HotWord("AB", weight)])


def test_hot_words_add_their_weight_to_the_scores_alone(encoded):
    toy = Toy(1)
    expected = toy.exact(encoded[0], 2)
    for weight in (0.0, 2.0):
        found = ranked_by_tokens(
            toy.search(2, Options(5000, **EXACT), texts=words(weight)), encoded
        )
        assert found.keys() == expected.keys()
        for tokens, one in found.items():
            assert one.hypothesis.log_probability == pytest.approx(expected[tokens], abs=1e-5)
            text = "".join(SURFACES[token] for token in tokens).split()
            bonus = 2 * weight * text.count("AB")  # of two symbols
            assert one.score == pytest.approx(expected[tokens] + bonus, abs=1e-5)


def test_hot_words_without_weight_change_nothing_in_a_narrow_beam(rng):
    encoded = rng.normal(size=(1, 9, WIDTH)).astype("float32")
    toy, lengths = Toy(4, blank_bonus=0.5), np.array([9])
    plain, hot = toy.search(2, Options(4)), toy.search(2, Options(4), texts=words(0.0))
    (expected,), (found,) = (x.n_best(decoded(x, encoded, lengths), 4) for x in (plain, hot))
    for one, same in zip(found, expected, strict=True):
        assert one.score == pytest.approx(same.score, abs=1e-9)
        assert one.hypothesis.tokens.tolist() == same.hypothesis.tokens.tolist()
