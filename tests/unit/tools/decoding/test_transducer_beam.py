"""Transducer beam search against sums over all alignments of small random networks."""

import itertools
from collections import defaultdict

import numpy as np
import pytest

from tools.decoding.arpa import read_arpa
from tools.decoding.fusion import Fusion
from tools.decoding.greedy import GreedySearch
from tools.decoding.hotwords import HotWord
from tools.decoding.options import BeamSearch
from tools.decoding.options import TransducerBeamSearch as Options
from tools.decoding.texts import Texts
from tools.decoding.token_tree import compact
from tools.decoding.transducer_beam import TransducerBeamSearch

VOCABULARY, WIDTH = 4, 5
EXACT = {"beam_prune": np.inf}


class Toy:
    """A transducer of small random matrices whose blank is symbol 1."""

    def __init__(self, seed, blank_bonus=0.0):
        rng = np.random.default_rng(seed)
        self.embeddings = rng.normal(size=(VOCABULARY, WIDTH))
        self.recurrent = rng.normal(size=(WIDTH, WIDTH))
        self.output = 2 * rng.normal(size=(WIDTH, VOCABULARY))
        self.bias = np.eye(VOCABULARY)[1] * blank_bonus
        self.sizes = []

    def call(self, inputs, signature):
        self.sizes.append(len(next(iter(inputs.values()))))
        if signature == "predict":
            assert inputs["tokens"].dtype == np.int32
            embedded = self.embeddings[inputs["tokens"][:, 0]]
            after = np.tanh(embedded + inputs["states"] @ self.recurrent).astype("float32")
            return {"predicted": after[:, None], "next_states": after}
        joined = np.tanh(inputs["encoded"] + inputs["predicted"]) @ self.output + self.bias
        return {"logits": joined[:, :, None].astype("float32")}

    def exact(self, encoded, cap):
        """Returns the log-probability of each sequence of tokens, summed over all alignments."""
        found = defaultdict(lambda: -np.inf)
        zeros = np.zeros((1, WIDTH), np.float32)

        def predict(token, states):
            tokens = np.array([[token]], np.int32)
            after = self.call({"tokens": tokens, "states": states}, "predict")
            return after["predicted"], after["next_states"]

        def visit(frame, number, tokens, predicted, states, total):
            if frame == len(encoded):
                found[tokens] = np.logaddexp(found[tokens], total)
                return
            inputs = {"encoded": encoded[None, frame : frame + 1], "predicted": predicted}
            logits = self.call(inputs, "join")["logits"][0, 0, 0].astype("float64")
            scores = logits - np.logaddexp.reduce(logits)
            visit(frame + 1, 0, tokens, predicted, states, total + scores[1])
            for token in (0, 2, 3):
                place = (frame, number + 1) if number + 1 < cap else (frame + 1, 0)
                after = predict(token, states)
                visit(*place, (*tokens, token), *after, total + scores[token])

        visit(0, 0, (), *predict(1, zeros), 0.0)
        return dict(found)


def search_of(toy, cap, options, penalty=0.0, **more):
    return TransducerBeamSearch(
        toy.call, blank=1, state_shape=(WIDTH,), max_symbols_per_frame=cap,
        blank_penalty=penalty, options=options, **more,
    )  # fmt: skip


def decoded(search, encoded, lengths, cuts=()):
    state = search.start(len(encoded))
    for first, last in itertools.pairwise([0, *cuts, encoded.shape[1]]):
        piece = np.clip(lengths - first, 0, last - first)
        state = search.advance(state, encoded[:, first:last], piece)
    return state


@pytest.fixture
def encoded(rng):
    return rng.normal(size=(1, 3, WIDTH)).astype("float32")


@pytest.mark.parametrize("cap", [1, 2])
def test_an_unlimited_beam_has_all_sequences_with_their_probabilities(encoded, cap):
    toy = Toy(cap)
    expected = toy.exact(encoded[0], cap)
    search = search_of(toy, cap, Options(5000, **EXACT))
    (ranked,) = search.n_best(decoded(search, encoded, np.array([3])), 5000)
    found = {tuple(x.hypothesis.tokens.tolist()): x.score for x in ranked}
    assert len(found) == len(ranked) == len(expected)
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.logaddexp.reduce([*expected.values()]) == pytest.approx(0.0, abs=1e-5)
    scores = [x.score for x in ranked]
    assert scores == sorted(scores, reverse=True)
    assert [x.hypothesis.log_probability for x in ranked] == scores
    assert max(toy.sizes) <= 64


@pytest.mark.parametrize("options", [Options(1), Options(2), Options(3, beam_prune=1.0)])
def test_no_score_exceeds_the_sum_over_all_alignments(encoded, options):
    for seed in range(4):
        toy = Toy(seed)
        expected = toy.exact(encoded[0], 2)
        search = search_of(toy, 2, options)
        (ranked,) = search.n_best(decoded(search, encoded, np.array([3])), 9)
        assert 1 <= len(ranked) <= options.width
        assert len({tuple(x.hypothesis.tokens) for x in ranked}) == len(ranked)
        for one in ranked:
            assert one.score <= expected[tuple(one.hypothesis.tokens.tolist())] + 1e-5


def test_a_narrow_beam_of_sure_symbols_is_greedy_search(rng):
    encoded, lengths = 4 * rng.normal(size=(3, 8, WIDTH)).astype("float32"), np.array([8, 0, 5])
    toy = Toy(1, blank_bonus=1.0)
    toy.output *= 20
    greedy = GreedySearch(toy.call, blank=1, state_shape=(WIDTH,), max_symbols_per_frame=2)
    expected = greedy.finish(greedy.advance(greedy.start(3), encoded, lengths))
    search = search_of(toy, 2, Options(4))
    found = search.finish(decoded(search, encoded, lengths))
    assert [len(x.tokens) for x in found] != [0, 0, 0]
    for mine, theirs in zip(found, expected, strict=True):
        for own, peer in zip(mine[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(own, peer)


def test_cuts_and_other_rows_change_nothing(rng):
    encoded, lengths = rng.normal(size=(3, 6, WIDTH)).astype("float32"), np.array([6, 2, 4])
    toy = Toy(2, blank_bonus=1.0)
    search = search_of(toy, 3, Options(3))
    together = search.n_best(decoded(search, encoded, lengths), 3)
    cut = search.n_best(decoded(search, encoded, lengths, (1, 1, 4)), 3)
    for row, length in enumerate(lengths):
        alone = decoded(search, encoded[row : row + 1, :length], lengths[row : row + 1])
        for other in (cut[row], search.n_best(alone, 3)[0]):
            for one, same in zip(together[row], other, strict=True):
                assert one.score == pytest.approx(same.score, abs=1e-6)
                assert one.hypothesis.tokens.tolist() == same.hypothesis.tokens.tolist()
                assert one.hypothesis.starts.tolist() == same.hypothesis.starts.tolist()


@pytest.mark.parametrize("phrases", [[], ["AB"]])
def test_what_a_long_recording_forgets_changes_nothing(rng, phrases):
    """A batch forgets unused tokens and outputs of the prediction network earlier than one row."""
    encoded, toy = rng.normal(size=(1, 400, WIDTH)).astype("float32"), Toy(5, blank_bonus=1.5)
    words = [HotWord(text) for text in phrases]
    texts = Texts(SURFACES, 1, BeamSearch(), hot_words=words) if words else None
    search, length = search_of(toy, 2, Options(4), texts=texts), np.array([400])
    (alone,) = search.n_best(decoded(search, encoded, length), 4)
    together = decoded(search, np.repeat(encoded, 6, 0), np.repeat(length, 6))
    assert len(together.nodes) < 6 * 400 * 4, "the tree of tokens is bounded"
    assert len(alone[0].hypothesis.tokens) > 100
    for ranked in search.n_best(together, 4):
        for one, same in zip(alone, ranked, strict=True):
            assert one.score == pytest.approx(same.score, abs=1e-3)
            for mine, theirs in zip(one.hypothesis[:3], same.hypothesis[:3], strict=True):
                np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("seed", range(3))
def test_windows_of_frames_and_threads_give_what_single_frames_give(monkeypatch, seed):
    """The rows are so long that the places of outputs and of logits are used again."""
    monkeypatch.setattr("tools.decoding.parallel.num_parts", lambda _, rows, __: min(2, rows))
    rng = np.random.default_rng(seed)
    toy, lengths = Toy(seed, blank_bonus=2.0), np.array([40, 0, 13])
    encoded = rng.normal(size=(3, 40, WIDTH)).astype("float32")
    options = Options(3, beam_prune=8.0)
    single = search_of(toy, 3, options)
    search = search_of(toy, 3, options, max_window=16, threads=2)
    found = search.n_best(decoded(search, encoded, lengths, (7, 8)), 3)
    for one, same in zip(found, single.n_best(decoded(single, encoded, lengths), 3), strict=True):
        assert len(one) == len(same)
        for mine, theirs in zip(one, same, strict=True):
            assert mine.score == pytest.approx(theirs.score, abs=1e-4)
            for own, peer in zip(mine.hypothesis[:3], theirs.hypothesis[:3], strict=True):
                np.testing.assert_array_equal(own, peer)
            certain = theirs.hypothesis.confidences
            np.testing.assert_allclose(mine.hypothesis.confidences, certain, atol=1e-5)
    assert len(found[0][0].hypothesis.tokens) > 5


def test_the_prediction_network_runs_once_for_a_sequence_of_tokens(rng):
    toy = Toy(3, blank_bonus=3.0)
    encoded = rng.normal(size=(1, 12, WIDTH)).astype("float32")
    seen = []

    def call(inputs, signature):
        found = toy.call(inputs, signature)
        if signature == "predict":
            seen.extend(row.tobytes() for row in found["next_states"])
        return found

    search = TransducerBeamSearch(
        call, blank=1, state_shape=(WIDTH,), max_symbols_per_frame=2,
        options=Options(4), max_window=4,
    )  # fmt: skip
    decoded(search, encoded, np.array([12]))
    assert len(seen) > 5
    assert len(seen) == len(set(seen))


def test_a_tree_of_tokens_keeps_the_paths_of_its_leaves(rng):
    parents = [-1, *(int(rng.integers(-1, number)) for number in range(1, 60))]
    nodes = np.array([[parent, number, 7] for number, parent in enumerate(parents)], np.int32)

    def path(node):
        found = []
        while node >= 0:
            found.append(nodes[node, 1:].tolist())
            node = nodes[node, 0]
        return found

    leaves = np.array([59, -1, 12, 40, 12])
    before = [path(leaf) for leaf in leaves]
    needed = {tuple(node) for one in before for node in one}
    assert compact(nodes, 60, leaves) == len(needed) < 60
    assert [path(leaf) for leaf in leaves] == before
    assert leaves.max() < len(needed)


def test_a_penalty_of_the_blank_and_the_length_rank_the_hypotheses(encoded):
    toy = Toy(3, blank_bonus=2.0)
    expected = toy.exact(encoded[0], 1)
    for penalty, norm_score in ((0.0, True), (3.0, False), (3.0, True)):
        search = search_of(toy, 1, Options(500, norm_score, **EXACT), penalty)
        (ranked,) = search.n_best(decoded(search, encoded, np.array([3])), 500)
        scores = []
        for hypothesis, score in ranked:
            size = len(hypothesis.tokens)
            exact = expected[tuple(hypothesis.tokens.tolist())]
            assert hypothesis.log_probability == pytest.approx(exact, abs=1e-5)
            # With one symbol or a blank in each of three frames, the others are blanks.
            exact -= penalty * (3 - size)
            assert score == pytest.approx(exact / max(size, 1) if norm_score else exact, abs=1e-5)
            scores.append(score)
        assert scores == sorted(scores, reverse=True)


ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-2\t<unk>\t0
-9\t<s>\t-0.3
-1\t</s>\t0
-0.5\tA\t-0.2
-1.5\tAC\t-0.1

\\2-grams:
-0.1\t<s> A
-0.4\tA AC

\\end\\
"""
SURFACES = [" A", "", " B", "C"]


def score_of(text, model, weight, bonus):
    """Returns the score of the words of a text, with unknown words and the end of the sentence."""
    state, total = model.start(), 0.0
    for word in text.split():
        score, state = model.score(state, word)
        total += score - 10.0 * (word not in model)
    total += model.score(state, "</s>")[0]
    return weight * total * np.log(10) + bonus * len(text.split())


@pytest.mark.parametrize(("weight", "bonus"), [(0.5, 1.5), (0.3, -1.0), (0.0, 1.5)])
def test_scores_with_a_language_model_are_sums_of_both(encoded, tmp_path, weight, bonus):
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    model, toy = read_arpa(path), Toy(1)
    options = BeamSearch(weight=weight, word_bonus=bonus)
    texts = Texts(SURFACES, 1, options, Fusion(model))
    search = TransducerBeamSearch(
        toy.call, blank=1, state_shape=(WIDTH,), max_symbols_per_frame=1,
        options=Options(500, **EXACT), texts=texts,
    )  # fmt: skip
    expected = toy.exact(encoded[0], 1)
    (ranked,) = search.n_best(decoded(search, encoded, np.array([3])), 500)
    assert len(ranked) == len(expected)
    for hypothesis, score in ranked:
        exact = expected[tuple(hypothesis.tokens.tolist())]
        assert hypothesis.log_probability == pytest.approx(exact, abs=1e-5)
        if weight:
            text = "".join(SURFACES[token] for token in hypothesis.tokens)
            exact += score_of(text, model, weight, bonus)
        assert score == pytest.approx(exact, abs=1e-4)
    scores = [x.score for x in ranked]
    assert scores == sorted(scores, reverse=True)
