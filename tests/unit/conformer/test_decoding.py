"""Compares greedy decoding with a plain loop over frames, for networks that are random tables."""

import numpy as np
import pytest
import tensorflow as tf

from conformer.model import BLANK
from tools.decoding.graph import Hypotheses, detokenize, greedy_decode

VOCABULARY_SIZE, WIDTH = 6, 4


class Tables:
    """A transducer of random tables. Its state is a hash of all tokens so far."""

    def __init__(self, rng, blank_bias=0.0):
        self.by_frame = rng.normal(size=(WIDTH, VOCABULARY_SIZE)).astype("float32")
        self.by_state = rng.normal(size=(11, VOCABULARY_SIZE)).astype("float32")
        self.graphs = {}  # by the limit of symbols per frame
        self.blank_bias = np.eye(VOCABULARY_SIZE, dtype="float32")[BLANK] * np.float32(blank_bias)

    def predict(self, tokens, states):
        """Returns outputs and states `[B, 2, 1]`: the hash, and the number of tokens so far."""
        hashed = (3 * states[:, 0] + 1 + tf.cast(tokens, tf.float32)) % 11
        states = tf.stack([hashed, states[:, 1] + 1], axis=1)
        return tf.gather(self.by_state, tf.cast(hashed, tf.int32)), states

    def join(self, encoded, predicted):
        frames = tf.tensordot(encoded, self.by_frame, 1)[:, :, None] + self.blank_bias
        return frames + predicted[:, None]

    @property
    def initial(self):
        return np.zeros((2, 1), "float32")

    def reference(self, encoded, cap):
        """Decodes one utterance by the definition: frame by frame, symbol by symbol."""
        state = 1  # the hash after the blank that starts every utterance
        tokens, log_probability = [], 0.0
        for frame in encoded:
            for _ in range(cap):
                logits = frame @ self.by_frame + self.by_state[state] + self.blank_bias
                best = int(np.argmax(logits))
                log_probability += logits[best] - np.log(np.sum(np.exp(logits)))
                if best == BLANK:
                    break
                tokens.append(best)
                state = (3 * state + 1 + best) % 11
        return tokens, log_probability


def decode(tables, encoded, lengths, cap=5):
    states = np.tile(tables.initial[None], (len(lengths), 1, 1))
    if cap not in tables.graphs:
        tables.graphs[cap] = tf.function(
            lambda e, n, s: greedy_decode(
                e, n, tables.predict, tables.join, initial_states=s, max_symbols_per_frame=cap
            ),
            input_signature=[
                tf.TensorSpec([None, None, WIDTH]),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None, 2, 1]),
            ],
        )
    return tables.graphs[cap](encoded, np.array(lengths, np.int32), states)


def rows(hypotheses):
    pairs = zip(hypotheses.token_ids.numpy(), hypotheses.token_lengths.numpy(), strict=True)
    return [ids[:length].tolist() for ids, length in pairs]


LENGTHS = [9, 4, 0, 7, 1]


@pytest.fixture
def encoded(rng):
    values = rng.normal(size=(len(LENGTHS), max(LENGTHS), WIDTH)).astype("float32")
    for row, length in enumerate(LENGTHS):
        values[row, length:] = np.nan
    return values


@pytest.mark.parametrize("cap", [1, 2, 5])
@pytest.mark.parametrize("blank_bias", [0.0, 1.5])
def test_equals_a_loop_over_frames(rng, encoded, cap, blank_bias):
    tables = Tables(rng, blank_bias)
    found = decode(tables, encoded, LENGTHS, cap)
    expected = [tables.reference(x[:n], cap) for x, n in zip(encoded, LENGTHS, strict=True)]
    assert rows(found) == [tokens for tokens, _ in expected]
    assert any(tokens for tokens, _ in expected)
    np.testing.assert_allclose(
        found.log_probability, [p for _, p in expected], rtol=1e-5, atol=1e-6
    )


def test_alone_equals_in_a_batch(rng, encoded):
    tables = Tables(rng, 0.5)
    batch = decode(tables, encoded, LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = decode(tables, encoded[row : row + 1, :length], [length])
        assert rows(alone) == rows(batch)[row : row + 1]
        np.testing.assert_allclose(alone.log_probability[0], batch.log_probability[row], rtol=1e-6)


def test_padding_is_blank_and_types_are_those_of_the_contract(rng, encoded):
    found = decode(Tables(rng, 0.5), encoded, LENGTHS)
    assert found.token_ids.dtype == found.token_lengths.dtype == tf.int32
    assert found.log_probability.dtype == tf.float32
    ids, lengths = found.token_ids.numpy(), found.token_lengths.numpy()
    assert ids.shape == (len(LENGTHS), lengths.max())
    for row, length in zip(ids, lengths, strict=True):
        assert np.all(row[:length] != BLANK)
        assert np.all(row[length:] == BLANK)


@pytest.mark.parametrize("cap", [1, 3])
def test_a_network_that_never_stops_is_capped_in_every_frame(rng, encoded, cap):
    found = decode(Tables(rng, -100.0), encoded, LENGTHS, cap)
    np.testing.assert_array_equal(found.token_lengths, cap * np.array(LENGTHS))


def test_a_network_that_says_nothing(rng, encoded):
    found = decode(Tables(rng, 100.0), encoded, LENGTHS)
    assert found.token_ids.shape == (len(LENGTHS), 0)
    np.testing.assert_allclose(found.log_probability, np.zeros(len(LENGTHS)), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_batches_without_a_valid_frame(rng, shape):
    found = decode(Tables(rng), np.full((*shape, WIDTH), np.nan, "float32"), [0] * shape[0])
    assert rows(found) == [[]] * shape[0]
    assert not np.any(found.log_probability)
    assert detokenize(found, ["", *"abcde"]).numpy().tolist() == [b""] * shape[0]


def test_half_precision_networks_are_scored_in_float32(rng, encoded):
    tables = Tables(rng, 0.5)
    join = tables.join
    tables.join = lambda e, p: tf.cast(join(e, p), tf.float16)
    found = decode(tables, encoded, LENGTHS)
    assert found.log_probability.dtype == tf.float32
    assert np.all(np.isfinite(found.log_probability))


def test_the_graph_does_not_grow_with_the_batch(rng):
    tables = Tables(rng)

    def num_operations(batch_size):
        run = tf.function(
            lambda e, n, s: greedy_decode(e, n, tables.predict, tables.join, initial_states=s)
        ).get_concrete_function(
            tf.TensorSpec([batch_size, 8, WIDTH]),
            tf.TensorSpec([batch_size], tf.int32),
            tf.TensorSpec([batch_size, 2, 1]),
        )
        graph = run.graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert num_operations(2) == num_operations(64)


def hypotheses(ids, lengths):
    ids = tf.constant(ids, tf.int32)
    return Hypotheses(ids, tf.constant(lengths, tf.int32), tf.zeros(len(lengths)))


def test_text_of_tokens():
    surfaces = ["", "⁇", " the", " c", "at", "ß", " "]
    found = hypotheses(
        [[2, 3, 4, 0], [3, 5, 1, 4], [0, 0, 0, 0], [6, 2, 6, 6], [4, 2, 2, 2]], [3, 4, 0, 4, 1]
    )
    texts = [text.decode() for text in detokenize(found, surfaces).numpy()]
    assert texts == ["the cat", "cß⁇at", "", "the", "at"]


def test_text_of_nothing():
    found = hypotheses(np.zeros((2, 0)), [0, 0])
    assert detokenize(found, ["", "a"]).numpy().tolist() == [b"", b""]
