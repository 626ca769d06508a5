"""The stateless prediction network: its definition, single steps, and both greedy searches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import conformer
from conformer.prediction import StatelessPrediction
from conformer.signatures import Signatures, pipeline_description
from conformer.tokenizer import CharacterTokenizer
from tests.support.errors import refused
from tools.decoding.greedy import GreedySearch

TOKENS = np.array([[0, 3, 3, 1, 5], [0, 6, 2, 2, 4]], np.int32)


@pytest.fixture
def layer():
    keras.utils.set_random_seed(1)
    layer = StatelessPrediction(7, 6)
    layer.build((None, None))
    layer.convolution.bias.assign(np.linspace(-0.01, 0.01, 6))
    return layer


def test_an_output_depends_on_the_last_two_labels(layer):
    embeddings, kernel, bias = (np.array(v) for v in layer.weights)
    outputs, states = layer(TOKENS)
    for row, tokens in enumerate(TOKENS):
        before = np.zeros(6)
        for u, token in enumerate(tokens):
            after = embeddings[token]
            expected = np.maximum(before @ kernel[:6] + after @ kernel[6:] + bias, 0)
            np.testing.assert_allclose(outputs[row, u], expected, atol=1e-6)
            before = after
    np.testing.assert_array_equal(states, embeddings[TOKENS[:, -2:]])
    changed, _ = layer(np.where(np.arange(5) == 1, 6, TOKENS))
    np.testing.assert_array_equal(changed[:, 3:], outputs[:, 3:])
    assert np.any(changed[0, 2] != outputs[0, 2])


def test_single_steps_equal_the_whole(layer):
    outputs, states = layer(TOKENS)
    state = layer.initial_state(2)
    assert state.shape == (2, 2, 6) and not np.any(state)
    for u in range(TOKENS.shape[1]):
        output, state = layer(tf.constant(TOKENS[:, u : u + 1]), state)
        np.testing.assert_allclose(output[:, 0], outputs[:, u], atol=1e-6)
    np.testing.assert_array_equal(state, states)


def test_a_model_with_it_is_exported_and_decoded_in_both_ways(tiny_sizes):
    config = conformer.load_config(None, {**tiny_sizes, "model.prediction": "stateless"})
    tokenizer = CharacterTokenizer.from_transcripts(["A CAB", "OVER"])
    keras.utils.set_random_seed(2)
    model = conformer.build_model(config, tokenizer.vocabulary_size)
    assert not any("lstm" in v.path for v in model.weights)
    for variable in (*model.joint.weights, *model.prediction.weights):
        if "kernel" in variable.path or "embedding" in variable.path:
            variable.assign(4.0 * variable)
    functions = Signatures(model, tokenizer.surfaces, config).functions
    pipeline = pipeline_description(config, tokenizer, model)
    waveforms = np.random.default_rng(1).normal(0, 0.1, (3, 9000)).astype("f4")
    inputs = {"waveforms": waveforms, "lengths": np.array([9000, 6001, 3000], np.int32)}
    answer = functions["serving_default"](**inputs)
    search = GreedySearch(
        lambda arrays, name: {k: v.numpy() for k, v in functions[name](**arrays).items()},
        blank=0,
        state_shape=pipeline["state_shape"],
        max_symbols_per_frame=pipeline["max_symbols_per_frame"],
    )
    heard = functions["listen"](**inputs)
    lengths = heard["encoded_lengths"].numpy()
    state = search.advance(search.start(3), heard["encoded"].numpy(), lengths)
    for row, hypothesis in enumerate(search.finish(state)):
        count = int(answer["token_lengths"][row])
        assert count == len(hypothesis.tokens) > 2
        np.testing.assert_array_equal(answer["token_ids"][row, :count], hypothesis.tokens)


def test_another_prediction_network_is_refused():
    with refused("model.prediction"):
        conformer.load_config(None, {"model.prediction": "gru"})
