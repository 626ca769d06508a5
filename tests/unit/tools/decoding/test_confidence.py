"""Confidences against the formula on probabilities, and of searches against loops over frames."""

import itertools
import math

import numpy as np
import pytest

from tools.decoding.confidence import confidences
from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.ctc_beam import CtcBeamSearch
from tools.decoding.greedy import GreedySearch
from tools.decoding.options import BeamSearch, TransducerBeamSearch
from tools.decoding.transducer_beam import TransducerBeamSearch as TransducerBeam

VOCABULARY, WIDTH, FRAMES = 5, 4, 12


def reference(logits):
    """Equation 11 of the paper, written with probabilities and Python's floats."""
    weights = [math.exp(x) for x in logits.tolist()]
    shares = [weight / sum(weights) for weight in weights]

    def tsallis(values):
        return (sum(x ** (1 / 3) for x in values) - 1) / (1 - 1 / 3)

    least = math.exp(-tsallis([1 / len(shares)] * len(shares)))
    return (math.exp(-tsallis(shares)) - least) / (1 - least)


def test_the_formula_and_its_ends():
    logits = np.random.default_rng(1).normal(size=(20, VOCABULARY)) * 4
    expected = [reference(row) for row in logits]
    np.testing.assert_allclose(confidences(logits), expected, atol=1e-6)
    np.testing.assert_allclose(confidences(logits + 500.0), expected, atol=1e-6)
    np.testing.assert_allclose(
        confidences(np.zeros((2, 3, VOCABULARY))), np.zeros((2, 3)), atol=1e-7
    )
    np.testing.assert_allclose(confidences(np.array([0.0, 200.0, 0.0])), 1.0)
    assert confidences(np.zeros((4, 1))).tolist() == [1.0] * 4
    assert np.isnan(confidences(np.array([np.inf, 0.0])))


def found_in_pieces(search, frames, edges):
    state = search.start(1)
    for first, last in itertools.pairwise(edges):
        state = search.advance(state, frames[None, first:last], np.array([last - first]))
    return search.finish(state)[0]


@pytest.mark.parametrize("edges", [(0, FRAMES), (0, 3, 4, 9, FRAMES), range(FRAMES + 1)])
def test_a_ctc_token_has_the_largest_confidence_of_its_frames(edges):
    logits = np.random.default_rng(2).normal(size=(FRAMES, VOCABULARY)).astype("float32") * 3
    logits[:, 2] += 2.0  # runs of several frames
    logits[4:7, 3] = 12.0, 9.0, 7.0  # of which the first is the most certain
    frames = confidences(logits)
    beam = CtcBeamSearch(["", *"abcd"], 0, BeamSearch(8))
    for search in (CtcGreedySearch(0), beam):
        found = found_in_pieces(search, logits, edges)
        rows = zip(found.starts, found.ends, strict=True)
        expected = [frames[start:end].max() for start, end in rows]
        assert len(expected) > 2
        np.testing.assert_array_equal(found.confidences, np.array(expected, "float32"))
    assert (found.ends - found.starts).max() > 1


@pytest.mark.parametrize("edges", [(0, FRAMES), (0, 5, FRAMES)])
def test_a_transducer_token_has_the_confidence_of_the_step_that_emits_it(edges):
    rng = np.random.default_rng(3)
    encoded = rng.normal(size=(FRAMES, WIDTH)).astype("float32")
    embeddings = rng.normal(size=(VOCABULARY, WIDTH)).astype("float32")
    output = rng.normal(size=(WIDTH, VOCABULARY)).astype("float32") * 3

    def call(inputs, signature):
        if signature == "predict":
            read = embeddings[inputs["tokens"][:, 0]] + 0.3 * inputs["states"][:, 0]
            return {"predicted": read[:, None], "next_states": read[:, None]}
        return {"logits": (np.tanh(inputs["encoded"] + inputs["predicted"]) @ output)[:, :, None]}

    options = {"blank": 0, "state_shape": (1, WIDTH), "max_symbols_per_frame": 1}
    widths = TransducerBeamSearch(1, False)
    for search in (GreedySearch(call, **options), TransducerBeam(call, **options, options=widths)):
        found = found_in_pieces(search, encoded, edges)
        assert 2 < len(found.tokens) < FRAMES
        state, expected = np.zeros(WIDTH, "float32"), []
        emitted = dict(zip(found.starts.tolist(), found.tokens.tolist(), strict=True))
        state = embeddings[0]
        for frame in range(FRAMES):
            logits = np.tanh(encoded[frame] + state) @ output
            if frame in emitted:
                expected.append(confidences(logits))
                state = embeddings[emitted[frame]] + 0.3 * state
        np.testing.assert_allclose(found.confidences, expected, atol=1e-6)
