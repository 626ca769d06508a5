"""Greedy transducer decoding, in the graph and outside, on a network that follows a script."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.errors import refused
from tools.decoding.graph import detokenize, greedy_decode
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.transducer_decoder import TransducerDecoder

VOCABULARY_SIZE, SURE = 6, 3.0
PADDING = 99.0  # a frame of the padding, where the network would emit for ever
SURFACES = [" A", "B", " C", "d", "E ", " "]


class Script:
    """A network that wants to emit `counts[row][frame]` symbols in each frame of an utterance.

    A frame is `[row, frame]`, a state `[number of tokens read, the last of them]`. A symbol that
    was not emitted in its frame is not made up for: nothing is said any more.
    """

    def __init__(self, counts, blank=0):
        self.counts, self.blank = counts, blank
        self.frame_of = [[t for t, count in enumerate(row) for _ in range(count)] for row in counts]
        self.symbols = [token for token in range(VOCABULARY_SIZE) if token != blank]

    def token(self, row, number):
        """The symbol of a row by its number, the blank before the first."""
        return self.symbols[(row + 2 * number) % len(self.symbols)] if number >= 0 else self.blank

    def listen(self):
        lengths = np.array([len(row) for row in self.counts], np.int32)
        encoded = np.full((len(lengths), lengths.max(initial=0) + 1, 2), PADDING, np.float32)
        for row, length in enumerate(lengths):
            encoded[row, :length, 0] = row
            encoded[row, :length, 1] = range(length)
        return {"encoded": encoded, "encoded_lengths": lengths}

    def predict(self, tokens, states):
        after = np.stack([states[:, 0] + 1, tokens.astype(np.float32)], axis=1)
        return {"predicted": after[:, None, :, 0], "next_states": after}

    def join(self, encoded, predicted):
        logits = np.zeros((len(encoded), 1, 1, VOCABULARY_SIZE), np.float32)
        for place, ((row, frame), (num_read, last)) in enumerate(
            zip(encoded[:, 0], predicted[:, 0], strict=True)
        ):
            number = int(num_read) - 1  # of the next symbol; the blank at the start is read as well
            if frame == PADDING:
                wanted = self.symbols[0]
            elif last != self.token(int(row), number - 1):
                wanted = self.symbols[-1]  # it was not told what was emitted
            else:
                due = self.frame_of[int(row)][number : number + 1] == [frame]
                wanted = self.token(int(row), number) if due else self.blank
            logits[place, 0, 0, wanted] = SURE
        return {"logits": logits}

    def expected(self, cap):
        """Tokens and log-probability of each row, without a search."""
        one_step = SURE - np.log(np.exp(SURE) + VOCABULARY_SIZE - 1)
        for row, counts in enumerate(self.counts):
            over = next((frame for frame, count in enumerate(counts) if count > cap), len(counts))
            emitted = [min(count, cap) for count in counts[: over + 1]]
            emitted += [0] * (len(counts) - len(emitted))
            # A blank ends each frame that the limit does not end.
            num_steps = sum(count + (count < cap) for count in emitted)
            yield [self.token(row, number) for number in range(sum(emitted))], num_steps * one_step


def outside(script, cap, **settings):
    """Runs the search of converted models."""

    def run(inputs, signature):
        return script.listen() if signature == "listen" else getattr(script, signature)(**inputs)

    pipeline = {
        "blank": script.blank,
        "max_symbols_per_frame": cap,
        "state_shape": [2, 1],
        "vocabulary": {"surfaces": SURFACES},
        **settings,
    }
    return TransducerDecoder(pipeline, in_graph=False).answer(run, {})


running = []  # the script that the graph below follows


def predict_in_graph(tokens, states):
    def call(*given):
        return tuple(running[-1].predict(*given).values())

    predicted, states = tf.numpy_function(call, [tokens, states], (tf.float32, tf.float32))
    return tf.ensure_shape(predicted, [None, 1, 2]), tf.ensure_shape(states, [None, 2, 1])


def join_in_graph(encoded, predicted):
    logits = tf.numpy_function(
        lambda *given: running[-1].join(*given)["logits"], [encoded, predicted], tf.float32
    )
    return tf.ensure_shape(logits, [None, 1, 1, VOCABULARY_SIZE])


@tf.function(input_signature=[
    tf.TensorSpec([None, None, 2]),
    tf.TensorSpec([None], tf.int32),
    tf.TensorSpec([None, 2, 1]),
    tf.TensorSpec([], tf.int32),
])  # fmt: skip
def graph(encoded, lengths, states, cap):
    found = greedy_decode(
        encoded,
        lengths,
        predict_in_graph,
        join_in_graph,
        initial_states=states,
        max_symbols_per_frame=cap,
    )
    return {"text": detokenize(found, SURFACES), **found._asdict()}


def in_the_graph(script, cap):
    """Runs the search of SavedModels."""
    running[:] = [script]
    states = np.zeros((len(script.counts), 2, 1), np.float32)
    found = graph(*script.listen().values(), states, cap)
    return {name: value.numpy() for name, value in found.items()}


COUNTS = st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("decode", "blank"), [(in_the_graph, 0), (outside, 0), (outside, VOCABULARY_SIZE - 1)]
)
@settings(deadline=None, max_examples=50, derandomize=True)
@given(counts=COUNTS, cap=st.integers(1, 3))
def test_what_the_network_emits_is_written_up_to_the_limit_of_each_frame(
    decode, blank, counts, cap
):
    script = Script(counts, blank)
    found = decode(script, cap)
    assert found["token_ids"].dtype == found["token_lengths"].dtype == np.int32
    assert found["log_probability"].dtype == np.float32
    assert found["token_ids"].shape == (len(counts), found["token_lengths"].max(initial=0))
    rows = zip(*(found[name] for name in ("token_ids", "token_lengths", "text")), strict=True)
    expected = list(script.expected(cap))
    for (ids, length, text), (tokens, _) in zip(rows, expected, strict=True):
        assert ids[:length].tolist() == tokens
        assert (ids[length:] == blank).all()
        assert text.decode() == "".join(SURFACES[token] for token in tokens).strip()
    np.testing.assert_allclose(found["log_probability"], [p for _, p in expected], rtol=1e-5)


@pytest.mark.parametrize("decode", [in_the_graph, outside])
@pytest.mark.parametrize("cap", [1, 2, 5])
def test_a_network_that_always_emits_is_limited_in_every_frame(decode, cap):
    script = Script([[1] * 7, [1] * 3, []])
    script.join = lambda encoded, predicted: {
        "logits": np.tile(np.eye(VOCABULARY_SIZE, dtype="f4")[2], (len(encoded), 1, 1, 1))
    }
    found = decode(script, cap)
    assert found["token_lengths"].tolist() == [7 * cap, 3 * cap, 0]
    assert set(found["token_ids"][0].tolist()) == {2}


def test_a_penalty_of_the_blank_is_that_of_the_export():
    script = Script([[0] * 4])
    script.join = lambda encoded, predicted: {
        "logits": np.tile(np.array([1.0, 0.5, 0.0] + [0.0] * (VOCABULARY_SIZE - 3), "f4"),
                          (len(encoded), 1, 1, 1))
    }  # fmt: skip
    assert outside(script, 1)["token_lengths"].tolist() == [0]
    assert outside(script, 1, blank_penalty=0.7)["token_lengths"].tolist() == [4]


def test_the_ctc_head_is_decoded_where_the_export_says_so():
    def call(inputs, signature):
        assert signature == "listen"  # a CTC search runs no other signature
        logits = np.log(np.full((2, 5, 3), 0.1, np.float32))
        for row, path in enumerate(([0, 1, 1, 0, 1], [2, 0, 1, 1, 1])):
            logits[row, range(5), path] = np.log(0.8)
        encoded = np.zeros((2, 5, 4), np.float32)
        return {"encoded": encoded, "encoded_lengths": np.array([5, 2]), "logits": logits}

    pipeline = {"blank": 0, "head": "ctc", "vocabulary": {"surfaces": ["", " A", " B"]}}
    found = TransducerDecoder(pipeline, in_graph=False).answer(call, {})
    assert found["text"].tolist() == [b"A A", b"B"]
    assert found["token_ids"].tolist() == [[1, 1], [2, 0]]
    np.testing.assert_allclose(found["log_probability"], np.log([0.8**5, 0.8**2]), rtol=1e-5)


def test_a_batch_of_none_has_no_rows():
    found = outside(Script([]), 2)
    assert {name: value.shape for name, value in found.items()} == {
        "text": (0,), "token_ids": (0, 0), "token_lengths": (0,), "log_probability": (0,),
    }  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_have_no_text(value):
    """As those of a model that leaves the range of float16."""
    pipeline = {
        "blank": 0,
        "vocabulary": {"surfaces": ["", "A"]},
        "hop_samples": 320,
        "receptive_field_samples": 400,
        "sample_rate_hz": 16000,
    }
    logits = np.zeros((2, 3, 2), np.float32)
    logits[1, 2] = np.nan
    outputs = {"logits": logits, "logit_lengths": np.array([3, 2])}
    first, _ = CtcDecoder(pipeline).transcriptions(outputs)  # the last frame is padding
    assert first.log_probability == pytest.approx(3 * np.log(0.5))
    outputs["logit_lengths"] = np.array([3, 3])
    with refused("finite scores of the symbols"):
        CtcDecoder(pipeline).transcriptions(outputs)
    outputs = {"text": np.array([b"A"], object), "log_probability": np.float32([value])}
    with refused("finite scores of the symbols"):
        TransducerDecoder(pipeline, in_graph=True).transcriptions(outputs)
