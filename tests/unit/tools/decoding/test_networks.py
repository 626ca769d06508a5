"""Searches with a model that projects frames by a signature of its own, and without it."""

from collections import Counter

import numpy as np
import pytest

from tools.decoding.greedy import GreedySearch
from tools.decoding.networks import Networks
from tools.decoding.options import TransducerBeamSearch as Options
from tools.decoding.tdt import TdtSearch
from tools.decoding.tdt_beam import TdtBeamSearch
from tools.decoding.transducer_beam import TransducerBeamSearch

NUM_SYMBOLS, WIDTH, DURATIONS = 5, 4, (0, 1, 2)


class Toy:
    """A transducer of random matrices, whose blank is symbol 0.

    Args:
        projects: whether it has the signatures `project` and `join_projected` in place of `join`.
        num_outputs: number of logits.
    """

    def __init__(self, projects, num_outputs=NUM_SYMBOLS):
        rng = np.random.default_rng(8)
        self.embeddings = rng.normal(size=(NUM_SYMBOLS, WIDTH)).astype("float32")
        self.recurrent = rng.normal(size=(WIDTH, WIDTH)).astype("float32")
        self.encoded, self.predicted = rng.normal(size=(2, WIDTH, 6)).astype("float32")
        self.output = 2 * rng.normal(size=(6, num_outputs)).astype("float32")
        self.output[:, 0] += 0.5
        self.projects, self.num_projected, self.widths = projects, 0, Counter()

    def __call__(self, inputs, signature):
        if signature == "predict":
            read = self.embeddings[inputs["tokens"][:, 0]]
            after = np.tanh(read + inputs["states"] @ self.recurrent)
            found = {"predicted": after[:, None], "next_states": after}
            if self.projects:
                found["predicted_projection"] = after[:, None] @ self.predicted
            return found
        assert self.projects == (signature != "join")
        if signature == "project":
            self.num_projected += inputs["encoded"][..., 0].size
            self.widths[inputs["encoded"].shape[1]] += 1
            return {"encoded_projection": inputs["encoded"] @ self.encoded}
        if signature == "join":
            projections = inputs["encoded"] @ self.encoded, inputs["predicted"] @ self.predicted
        else:
            projections = inputs["encoded_projection"], inputs["predicted_projection"]
        return {"logits": (np.tanh(sum(projections)) @ self.output)[:, :, None]}


class Fixed(Toy):
    """A toy that was converted for five frames: it computes as many whatever it is given."""

    def __call__(self, inputs, signature):
        padded = {
            name: np.pad(x, ((0, 0), (0, 5 - x.shape[1]), (0, 0)), constant_values=3.0)
            if name.startswith("encoded")
            else x
            for name, x in inputs.items()
        }
        return super().__call__(padded, signature)


def greedy(call, **common):
    return GreedySearch(call, **common, vocabulary_size=NUM_SYMBOLS, threads=2)


def beam(call, **common):
    return TransducerBeamSearch(call, **common, options=Options(3), threads=2)


def tdt(call, **common):
    return TdtSearch(call, **common, durations=DURATIONS)


def tdt_beam(call, **common):
    return TdtBeamSearch(call, **common, durations=DURATIONS, options=Options(3))


@pytest.mark.parametrize("make", [greedy, beam, tdt, tdt_beam])
def test_each_frame_is_projected_once_and_the_result_is_the_same(make, rng):
    encoded, lengths = rng.normal(size=(3, 13, WIDTH)).astype("float32"), np.array([13, 0, 6])
    found = []
    for projects in (False, True):
        toy = Toy(projects, NUM_SYMBOLS + len(DURATIONS) * make.__name__.startswith("tdt"))
        search = make(
            toy, blank=0, state_shape=(WIDTH,), max_symbols_per_frame=2, projects=projects,
            max_window=5,
        )  # fmt: skip
        state = search.advance(search.start(3), encoded[:, :6], np.minimum(lengths, 6))
        state = search.advance(state, encoded[:, 6:], np.maximum(lengths - 6, 0))
        found.append(search.finish(state))
    assert toy.num_projected == 3 * 13
    assert toy.widths == {5: 2, 1: 1, 2: 1}, "windows of the two pieces"
    assert len(found[0][0].tokens) > 2
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.starts, other.starts)
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


@pytest.mark.parametrize("projects", [False, True])
@pytest.mark.parametrize("make", [greedy, beam, tdt, tdt_beam])
def test_a_model_of_fixed_sizes_gives_the_same(make, projects, rng):
    encoded, lengths = rng.normal(size=(2, 12, WIDTH)).astype("float32"), np.array([12, 7])
    found = []
    for kind in (Toy, Fixed):
        toy = kind(projects, NUM_SYMBOLS + len(DURATIONS) * make.__name__.startswith("tdt"))
        search = make(
            toy, blank=0, state_shape=(WIDTH,), max_symbols_per_frame=2, projects=projects,
            max_window=4,
        )  # fmt: skip
        found.append(search.finish(search.advance(search.start(2), encoded, lengths)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def test_no_frames_have_no_projection():
    networks = Networks(Toy(projects=True), projects=True, max_window=5)
    assert networks.project(np.zeros((2, 0, WIDTH), "float32")).shape[:2] == (2, 0)
