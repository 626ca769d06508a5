"""Beam search with durations in a graph, against the search on the host and sums over all paths."""

import numpy as np
import pytest
import tensorflow as tf

from tests.unit.tools.decoding.test_tdt_beam import SYMBOLS, WIDTH, Toy, decoded
from tools.decoding.graph_tdt_beam import tdt_beam_decode
from tools.decoding.options import TransducerBeamSearch as Options

DURATIONS = [(0, 1, 2), (1, 3), (0, 2, 4), (0, 1)]


def graph_of(toy, options, *, most, penalty=0.0):
    """Returns the search as a function with free sizes."""

    def predict(tokens, states):
        embedded = tf.gather(toy.embeddings.astype("float32"), tokens[:, 0])
        after = tf.tanh(embedded + states @ toy.recurrent.astype("float32"))
        return after[:, None], after

    def join(encoded, predicted):
        joined = tf.tanh(encoded + predicted) @ toy.output.astype("float32")
        return (joined + toy.bias.astype("float32"))[:, :, None]

    def decode(encoded, lengths):
        return tdt_beam_decode(
            encoded, lengths, predict, join,
            initial_states=tf.zeros([tf.shape(encoded)[0], WIDTH]), durations=toy.durations,
            width=options.width, max_symbols_per_frame=most, blank_penalty=penalty, blank=1,
            norm_score=options.norm_score, beam_prune=options.beam_prune,
        )  # fmt: skip

    specs = [tf.TensorSpec([None, None, WIDTH]), tf.TensorSpec([None], tf.int32)]
    return tf.function(decode, input_signature=specs, autograph=False)


def found_by(function, encoded, lengths):
    """Returns the hypotheses of each row, as tokens, score and log-probability, best first."""
    ids, counts, scores, probabilities = (
        x.numpy() for x in function(tf.constant(encoded), tf.constant(lengths, tf.int32))
    )
    assert ids.shape[:2] == counts.shape and len(ids) == len(encoded)
    rows = []
    for row, number in enumerate((scores > -np.inf).sum(axis=1)):
        assert (scores[row, :number] > -np.inf).all()
        hypotheses = []
        for place, count in enumerate(counts[row, :number]):
            assert (ids[row, place, count:] == 1).all()
            tokens = tuple(ids[row, place, :count].tolist())
            hypotheses.append((tokens, scores[row, place], probabilities[row, place]))
        rows.append(hypotheses)
    return rows


@pytest.mark.parametrize(("seed", "durations"), [*enumerate(DURATIONS)])
def test_the_graph_finds_what_the_host_finds(seed, durations):
    rng, lengths = np.random.default_rng(seed), np.array([7, 0, 4])
    toy = Toy(seed, durations, blank_bonus=1.0)
    encoded = rng.normal(size=(3, 7, WIDTH)).astype("float32")
    encoded[1], encoded[2, 4:] = 50.0, 50.0
    options = Options([1, 2, 4, 6][seed], bool(seed % 2), [5.0, 1.5][seed // 2])
    most, penalty = 1 + seed % 3, [0.0, 1.0][seed % 2]
    search = toy.search(most, options, penalty)
    expected = search.n_best(decoded(search, encoded, lengths), 1000)
    function = graph_of(toy, options, most=most, penalty=penalty)
    found = found_by(function, encoded, lengths)
    assert max(len(tokens) for tokens, *_ in found[0]) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert [x[0] for x in ours] == [tuple(x.hypothesis.tokens.tolist()) for x in theirs]
        for (_, score, probability), other in zip(ours, theirs, strict=True):
            assert score == pytest.approx(other.score, abs=1e-4)
            assert probability == pytest.approx(other.hypothesis.log_probability, abs=1e-4)
    assert found_by(function, encoded[:2], lengths[[1, 1]]) == [[((), 0.0, 0.0)]] * 2


def test_a_wide_beam_has_all_sequences_with_their_probabilities(rng):
    encoded, toy = rng.normal(size=(1, 2, WIDTH)).astype("float32"), Toy(5, (0, 2))
    expected = toy.exact(encoded[0], 2)
    options = Options(len(expected), beam_prune=np.inf)
    (found,) = found_by(graph_of(toy, options, most=2), encoded, np.array([2]))
    assert SYMBOLS == 3 and len(found) == len(expected) == 31
    assert {tokens: score for tokens, score, _ in found} == pytest.approx(expected, abs=1e-5)
