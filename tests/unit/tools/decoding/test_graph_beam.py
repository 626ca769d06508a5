"""Beam search in a graph of TensorFlow against the search on the host, over random networks."""

import numpy as np
import pytest
import tensorflow as tf

from tools.decoding.graph_beam import beam_decode, different_texts
from tools.decoding.graph_hypotheses import BeamHypotheses
from tools.decoding.options import TransducerBeamSearch as Options
from tools.decoding.transducer_beam import TransducerBeamSearch

VOCABULARY, WIDTH = 6, 5


class Toy:
    """A transducer of small random matrices whose blank is symbol 2."""

    blank = 2

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.embeddings = rng.normal(size=(VOCABULARY, WIDTH)).astype("float32")
        self.recurrent = rng.normal(size=(WIDTH, WIDTH)).astype("float32")
        self.output = 2 * rng.normal(size=(WIDTH, VOCABULARY)).astype("float32")
        self.bias = (np.eye(VOCABULARY)[2] * rng.uniform(-2, 1)).astype("float32")

    def predict(self, tokens, states):
        after = tf.tanh(tf.gather(self.embeddings, tokens[:, 0]) + states[:, 0] @ self.recurrent)
        return after[:, None], tf.stack([after, states[:, 1] + 1.0], axis=1)

    def join(self, encoded, predicted):
        return (tf.tanh(encoded + predicted) @ self.output + self.bias)[:, :, None]

    def call(self, inputs, signature):
        if signature == "predict":
            predicted, states = self.predict(inputs["tokens"], inputs["states"])
            return {"predicted": predicted.numpy(), "next_states": states.numpy()}
        return {"logits": self.join(inputs["encoded"], inputs["predicted"]).numpy()}


@pytest.mark.parametrize("seed", [0, 1, 2, 7])
def test_the_graph_finds_what_the_host_finds(seed):
    rng, toy = np.random.default_rng(seed), Toy(seed)
    lengths = np.array([7, 0, 4])
    encoded = rng.normal(size=(3, 7, WIDTH)).astype("float32")
    encoded[1], encoded[2, 4:] = 50.0, 50.0
    options = Options([1, 2, 4, 6][seed % 4], bool(seed % 2), [5.0, 2.0][seed // 4])
    cap, penalty = 1 + seed % 3, [0.0, 1.0][seed % 2]
    search = TransducerBeamSearch(
        toy.call, blank=2, state_shape=(2, WIDTH), max_symbols_per_frame=cap,
        blank_penalty=penalty, options=options,
    )  # fmt: skip
    expected = search.n_best(search.advance(search.start(3), encoded, lengths), options.width)
    decode = tf.function(
        lambda frames, lengths: beam_decode(
            frames, lengths, toy.predict, toy.join,
            initial_states=tf.zeros([tf.shape(frames)[0], 2, WIDTH]), width=options.width,
            max_symbols_per_frame=cap, blank_penalty=penalty, blank=2,
            norm_score=options.norm_score, beam_prune=options.beam_prune,
        ),
        autograph=False,
        input_signature=[tf.TensorSpec([None, None, WIDTH]), tf.TensorSpec([None], tf.int32)],
    )  # fmt: skip
    found = decode(tf.constant(encoded), tf.constant(lengths, tf.int32))
    ids, counts, scores, log_probabilities = (x.numpy() for x in found)
    for row, ranked in enumerate(expected):
        assert (scores[row] > -np.inf).sum() == len(ranked)
        for place, (hypothesis, score) in enumerate(ranked):
            count = counts[row, place]
            assert ids[row, place, :count].tolist() == hypothesis.tokens.tolist()
            assert (ids[row, place, count:] == 2).all()
            assert scores[row, place] == pytest.approx(score, abs=1e-4)
            exact = hypothesis.log_probability
            assert log_probabilities[row, place] == pytest.approx(exact, abs=1e-4)
    assert max(len(x.hypothesis.tokens) for x in expected[0]) > 0


def test_a_batch_without_frames_has_one_empty_hypothesis():
    toy = Toy(0)
    decode = tf.function(
        lambda frames, lengths: beam_decode(
            frames, lengths, toy.predict, toy.join,
            initial_states=tf.zeros([tf.shape(frames)[0], 2, WIDTH]), width=3, blank=2,
        ),
        autograph=False,
        input_signature=[tf.TensorSpec([None, None, WIDTH]), tf.TensorSpec([None], tf.int32)],
    )  # fmt: skip
    found = decode(tf.zeros([2, 3, WIDTH]), tf.constant([0, 0]))
    assert found.token_ids.shape == (2, 3, 0)
    np.testing.assert_array_equal(found.scores, [[0.0, -np.inf, -np.inf]] * 2)


def test_texts_of_a_list_are_different_and_have_single_spaces():
    found = BeamHypotheses(
        tf.constant([[[1, 1, 3], [2, 0, 0], [1, 4, 3], [3, 0, 0]]]),
        tf.constant([[3, 1, 3, 1]]),
        tf.constant([[-1.0, -2.0, -3.0, -np.inf]]),
        tf.constant([[-1.5, -2.5, -3.5, -4.5]]),
    )
    texts = different_texts(found, ["", " A", " A A B", "B", "  A "])
    assert texts["beam_texts"].numpy().tolist() == [[b"A AB", b"A A B", b"", b""]]
    assert texts["beam_scores"].numpy().tolist() == [[-1.0, -2.0, -np.inf, -np.inf]]
    assert texts["token_lengths"].numpy().tolist() == [[3, 1, 0, 0]]
    assert texts["token_ids"].numpy().tolist() == [[[1, 1, 3], [2, 0, 0], [0, 0, 0], [0, 0, 0]]]
