"""Greedy searches against loops over single rows, on the host and in a graph of TensorFlow."""

import itertools
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.graph import ctc_greedy_decode, greedy_decode
from tools.decoding.greedy import GreedySearch
from tools.decoding.text import text_of
from tools.decoding.timestamps import pieces_of, words_of

VOCABULARY, WIDTH = 6, 5


class Toy:
    """A transducer of small random matrices, written with operations NumPy and TensorFlow share.

    Args:
        blank_bonus: added to the blank's logit; it decides how many symbols a frame gives.
        blank: index of the blank; all symbols are moved up by so many, in a ring.
        seed: seed of the matrices.
    """

    def __init__(self, blank_bonus=0.0, blank=0, seed=3):
        self.blank = blank
        self.calls = Counter()
        rng = np.random.default_rng(seed)
        self.embeddings = rng.normal(size=(VOCABULARY, WIDTH)).astype("float32")
        self.recurrent = rng.normal(size=(WIDTH, WIDTH)).astype("float32")
        self.output = 3 * rng.normal(size=(WIDTH, VOCABULARY)).astype("float32")
        self.bias = np.eye(VOCABULARY, dtype="float32")[blank] * blank_bonus
        self.embeddings = np.roll(self.embeddings, blank, axis=0)
        self.output = np.roll(self.output, blank, axis=1)

    def read(self, library, embedded, states):
        following = library.tanh(embedded + states[:, 0] @ self.recurrent)
        return following[:, None], library.stack([following, states[:, 1] + 1.0], axis=1)

    def call(self, inputs, signature):
        self.calls[signature] += 1
        if signature == "predict":
            embedded = self.embeddings[inputs["tokens"][:, 0]]
            predicted, states = self.read(np, embedded, inputs["states"])
            return {"predicted": predicted, "next_states": states}
        joined = np.tanh(inputs["encoded"] + inputs["predicted"]) @ self.output + self.bias
        return {"logits": joined[:, :, None]}

    def predict_in_graph(self, tokens, states):
        return self.read(tf, tf.gather(self.embeddings, tokens[:, 0]), states)

    def join_in_graph(self, encoded, predicted):
        joined = tf.tanh(encoded + predicted) @ self.output + self.bias
        return joined[:, :, None]


def host(toy, encoded, lengths, cap, *, cuts=(), penalty=0.0, window=1):
    """Hypotheses of the search on the host; `cuts` are the frames at which its input is cut."""
    search = GreedySearch(
        toy.call,
        blank=toy.blank,
        state_shape=(2, WIDTH),
        max_symbols_per_frame=cap,
        blank_penalty=penalty,
        max_window=window,
    )
    state = search.start(len(encoded))
    edges = [0, *cuts, encoded.shape[1]]
    for first, last in itertools.pairwise(edges):
        state = search.advance(
            state, encoded[:, first:last], np.clip(lengths - first, 0, last - first)
        )
    return search.finish(state)


def in_graph(toy, encoded, lengths, cap, penalty=0.0):
    """The same of the search in the graph."""
    states = tf.zeros([len(encoded), 2, WIDTH])
    found = tf.function(
        lambda x, n: greedy_decode(
            x,
            n,
            toy.predict_in_graph,
            toy.join_in_graph,
            initial_states=states,
            max_symbols_per_frame=cap,
            blank_penalty=penalty,
            blank=toy.blank,
        )
    )(tf.constant(encoded), tf.constant(lengths, tf.int32))
    rows = zip(*(x.numpy() for x in found), strict=True)
    return [(tokens[:length], log_probability) for tokens, length, log_probability in rows]


def by_hand(toy, encoded, length, cap, penalty=0.0):
    """Tokens, their frames and the log probability of one row, frame by frame."""
    tokens, frames, total = [], [], 0.0
    states = np.zeros((1, 2, WIDTH), "float32")
    predicted, states = toy.read(np, toy.embeddings[[0]], states)
    for frame in range(length):
        for _ in range(cap):
            inputs = {"encoded": encoded[None, frame : frame + 1], "predicted": predicted}
            logits = toy.call(inputs, "join")["logits"][0, 0, 0].astype("float64")
            token = int((logits - penalty * np.eye(VOCABULARY)[0]).argmax())
            total += logits[token] - np.log(np.exp(logits).sum())
            if token == 0:
                break
            tokens.append(token)
            frames.append(frame)
            predicted, states = toy.read(np, toy.embeddings[[token]], states)
    return tokens, frames, total


@pytest.fixture
def batch(rng):
    lengths = np.array([7, 0, 4, 1])
    encoded = rng.normal(size=(4, 7, WIDTH)).astype("float32")
    for row, length in enumerate(lengths):
        encoded[row, length:] = 50.0
    return encoded, lengths


@pytest.mark.parametrize("search", [host, in_graph])
@pytest.mark.parametrize(("blank_bonus", "cap"), [(0.0, 1), (0.0, 3), (4.0, 5), (-50.0, 2)])
def test_each_row_is_that_of_a_loop_over_its_own_frames(batch, search, blank_bonus, cap):
    toy, (encoded, lengths) = Toy(blank_bonus), batch
    found = search(toy, encoded, lengths, cap)
    for row, length in enumerate(lengths):
        tokens, _, log_probability = by_hand(toy, encoded[row], length, cap)
        assert found[row][0].tolist() == tokens
        np.testing.assert_allclose(found[row][-1], log_probability, rtol=1e-4, atol=1e-5)
    if blank_bonus < -10:  # nothing but symbols: as many as are allowed, in each frame
        assert [len(x[0]) for x in found] == (cap * lengths).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_windows_of_frames_give_what_single_frames_give(seed):
    rng = np.random.default_rng(seed)
    toy = Toy(rng.uniform(-1, 6), seed=seed)
    lengths = rng.integers(0, 30, 5)
    encoded = rng.normal(size=(5, 30, WIDTH)).astype("float32")
    cap, penalty = int(rng.integers(1, 4)), rng.choice([0.0, 1.5])
    single = host(toy, encoded, lengths, cap, penalty=penalty)
    toy.calls.clear()
    found = host(toy, encoded, lengths, cap, penalty=penalty, window=seed + 2, cuts=(7, 8))
    for row, length in enumerate(lengths):
        tokens, frames, log_probability = by_hand(toy, encoded[row], length, cap, penalty)
        assert found[row].tokens.tolist() == single[row].tokens.tolist() == tokens
        assert found[row].starts.tolist() == single[row].starts.tolist() == frames
        assert found[row].log_probability == pytest.approx(log_probability, rel=1e-4, abs=1e-5)


def test_a_window_runs_the_prediction_network_once_a_token_and_the_joint_once_a_window(rng):
    toy, lengths = Toy(30.0), np.array([40])
    encoded = rng.normal(size=(1, 40, WIDTH)).astype("float32")
    assert host(toy, encoded, lengths, 3, window=8)[0].tokens.tolist() == []
    assert toy.calls == {"predict": 1, "join": 5}
    toy = Toy(5.0)
    (found,) = host(toy, encoded, lengths, 3, window=8)
    assert len(found.tokens) > 5
    assert toy.calls["predict"] == 1 + len(found.tokens)
    assert toy.calls["join"] <= len(found.tokens) + 5 < 40


@pytest.mark.parametrize("search", [host, in_graph])
def test_a_penalty_of_the_blank_chooses_more_symbols_and_keeps_their_probabilities(batch, search):
    toy, (encoded, lengths) = Toy(4.0), batch
    found = search(toy, encoded, lengths, 3, penalty=3.0)
    for row, length in enumerate(lengths):
        tokens, _, log_probability = by_hand(toy, encoded[row], length, 3, penalty=3.0)
        assert found[row][0].tolist() == tokens
        np.testing.assert_allclose(found[row][-1], log_probability, rtol=1e-4, atol=1e-5)
    plain = search(toy, encoded, lengths, 3)
    assert sum(len(x[0]) for x in found) > sum(len(x[0]) for x in plain)
    # The same symbols as a model has whose blank is less probable.
    lower = search(Toy(1.0), encoded, lengths, 3)
    assert [x[0].tolist() for x in found] == [x[0].tolist() for x in lower]


@pytest.mark.parametrize("search", [host, in_graph])
def test_the_blank_may_be_any_symbol(batch, search):
    encoded, lengths = batch
    first, third = (search(Toy(blank=blank), encoded, lengths, 3) for blank in (0, 2))
    for one, other in zip(first, third, strict=True):
        assert ((np.array(one[0], int) + 2) % VOCABULARY).tolist() == list(other[0])
        np.testing.assert_allclose(one[-1], other[-1], rtol=1e-5)


def test_tokens_know_their_frames(batch):
    toy, (encoded, lengths) = Toy(), batch
    found = host(toy, encoded, lengths, 2)
    assert sum(len(x.tokens) for x in found) > 4
    for row, length in enumerate(lengths):
        _, frames, _ = by_hand(toy, encoded[row], length, 2)
        assert found[row].starts.tolist() == frames
        assert found[row].ends.tolist() == [frame + 1 for frame in frames]


@pytest.mark.parametrize("cuts", [(1,), (3, 4), (1, 2, 3, 4, 5, 6)])
def test_pieces_give_what_the_whole_gives(batch, cuts):
    toy, (encoded, lengths) = Toy(), batch
    whole, cut = host(toy, encoded, lengths, 3), host(toy, encoded, lengths, 3, cuts=cuts)
    for one, other in zip(whole, cut, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_hypothesis_can_be_had_before_the_end(batch):
    toy, (encoded, lengths) = Toy(), batch
    search = GreedySearch(toy.call, blank=0, state_shape=(2, WIDTH), max_symbols_per_frame=3)
    state = search.advance(search.start(4), encoded[:, :3], np.minimum(lengths, 3))
    early = search.finish(state)
    late = search.finish(search.advance(state, encoded[:, 3:], np.maximum(lengths - 3, 0)))
    assert len(late[0].tokens) > len(early[0].tokens) > 0
    np.testing.assert_array_equal(late[0].tokens[: len(early[0].tokens)], early[0].tokens)


def ctc_by_hand(path, blank):
    """Runs of equal symbols other than blanks: symbol, first frame, frame behind the last one."""
    found = []
    for frame, symbol in enumerate(path):
        if frame == 0 or symbol != path[frame - 1]:
            found.append([symbol, frame, frame])
        found[-1][2] = frame + 1
    return [tuple(run) for run in found if run[0] != blank]


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("cuts", [(), (1,), (4, 9), tuple(range(1, 20))])
def test_ctc_takes_runs_once_whole_or_in_pieces(rng, blank, cuts):
    lengths = np.array([20, 0, 13, 1])
    logits = rng.normal(size=(4, 20, 3)).astype("float32")
    logits[:, 5:9, 1] += 9.0  # a long run across the cuts
    logits[2, 13:] = 1e3
    search = CtcGreedySearch(blank)
    state = search.start(4)
    edges = [0, *cuts, 20]
    for first, last in itertools.pairwise(edges):
        state = search.advance(
            state, logits[:, first:last], np.clip(lengths - first, 0, last - first)
        )
    in_graph = ctc_greedy_decode(tf.constant(logits), tf.constant(lengths), blank=blank)
    for row, found in enumerate(search.finish(state)):
        count = int(in_graph.token_lengths[row])
        np.testing.assert_array_equal(found.tokens, in_graph.token_ids[row, :count])
        assert (in_graph.token_ids[row, count:] == blank).numpy().all()
        np.testing.assert_allclose(
            found.log_probability, in_graph.log_probability[row], rtol=1e-5, atol=1e-6
        )
        valid = logits[row, : lengths[row]].astype("float64")
        expected = ctc_by_hand(valid.argmax(axis=-1).tolist(), blank)
        assert list(zip(*(x.tolist() for x in found[:3]), strict=True)) == expected
        best = valid.max(axis=-1) - np.log(np.exp(valid).sum(axis=-1))
        np.testing.assert_allclose(found.log_probability, best.sum(), rtol=1e-5)


def test_text_and_word_times_follow_from_tokens(rng):
    surfaces = ["", " ", "A", "B"]
    logits = np.eye(4, dtype="float32")[[1, 2, 2, 0, 3, 1, 1, 2, 0]][None] * 9
    search = CtcGreedySearch(0)
    (found,) = search.finish(search.advance(search.start(1), logits, np.array([9])))
    assert text_of(found.tokens, surfaces) == "AB A"
    words = words_of(pieces_of(found, surfaces, lambda frame: 0.1 + 0.02 * frame))
    assert [word.text for word in words] == ["AB", "A"]
    np.testing.assert_allclose(
        [word[1:3] for word in words], [(0.12, 0.2), (0.24, 0.26)], atol=1e-9
    )


def test_a_blank_that_is_all_but_certain_leaves_a_finite_score(batch):
    toy, (encoded, lengths) = Toy(95.0), batch
    found = host(toy, encoded, lengths, 1, penalty=100.0)
    assert len(found[0][0]) and all(np.isfinite(row[-1]) for row in found)
