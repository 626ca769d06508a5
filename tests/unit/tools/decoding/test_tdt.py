"""Greedy search of token-and-duration transducers: the graph and Python give the same path."""

import numpy as np
import pytest
import tensorflow as tf

from tools.decoding.graph import greedy_decode
from tools.decoding.tdt import TdtSearch

SYMBOLS, BATCH, FRAMES = 5, 12, 11


class Model:
    """A prediction network whose state is the sum of the tokens, and a joint network, at random."""

    def __init__(self, durations, rng):
        outputs = SYMBOLS + len(durations)
        self.table = rng.normal(size=(31, outputs)).astype("float32")
        self.scale = np.full(outputs, 2.0, "float32")

    def predict(self, tokens, states):
        following = (states * 3 + tf.cast(tokens, tf.float32)[:, :, None] + 1) % 31
        predicted = tf.gather(self.table, tf.cast(following[:, :, 0], tf.int32))
        return predicted, following

    def join(self, encoded, predicted):
        return (encoded + predicted)[:, :, None] * self.scale

    def call(self, inputs, signature):
        if signature == "join":
            return {"logits": np.asarray(self.join(inputs["encoded"], inputs["predicted"]))}
        predicted, following = self.predict(inputs["tokens"], inputs["states"])
        return {"predicted": np.asarray(predicted), "next_states": np.asarray(following)}


@pytest.mark.parametrize("blank_penalty", [0.0, 1.5])
@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (0, 2, 5), (1, 2)])
def test_the_graph_and_python_give_the_same_path(rng, durations, blank_penalty):
    model = Model(durations, rng)
    encoded = rng.normal(size=(BATCH, FRAMES, len(model.scale))).astype("float32")
    lengths = rng.integers(0, FRAMES + 1, BATCH).astype("int32")
    options = {"durations": durations, "max_symbols_per_frame": 2, "blank_penalty": blank_penalty}
    search = TdtSearch(model.call, blank=0, state_shape=(1, 1), **options)
    hypotheses = search.finish(search.advance(search.start(BATCH), encoded, lengths))

    @tf.function
    def in_graph(encoded, lengths):
        states = tf.zeros([BATCH, 1, 1])
        return greedy_decode(
            encoded, lengths, model.predict, model.join, initial_states=states, **options
        )

    found = in_graph(encoded, lengths)
    for row, one in enumerate(hypotheses):
        count = int(found.token_lengths[row])
        np.testing.assert_array_equal(found.token_ids[row, :count], one.tokens)
        np.testing.assert_allclose(found.log_probability[row], one.log_probability, rtol=1e-4)
    assert sum(len(x.tokens) for x in hypotheses) > BATCH
