"""The benchmarks of whole recognition, of CTC beams and of large language models."""

import itertools

import numpy as np
import pytest

from conformer.config import load_config
from tests.support.errors import refused
from tools.benchmark import conformer_recognition, ctc_decoding, language_model
from tools.benchmark.paced import fitted, num_tokens, pace, paced_sound, rhythm
from tools.benchmark.paced_conformer import random_model
from tools.decoding.arpa import read_arpa


def test_the_level_of_the_sound_follows_the_tokens():
    sound = paced_sound(2, 2.0, 5.0, 1000)
    levels = np.abs(sound["waveforms"]).reshape(2, 40, 50).mean(axis=-1)
    is_loud = levels > levels.mean()
    times = np.tile(np.arange(40) / 4, (2, 1))  # each level lasts for four of the stretches
    np.testing.assert_array_equal(is_loud, rhythm(times) > 0)
    assert sound["lengths"].tolist() == [2000, 2000]


def test_the_direction_that_tells_the_levels_is_found(rng):
    wanted = rhythm(np.tile((np.arange(40) + 0.5) * 8 / 40, (3, 1)))
    mixing = rng.normal(size=4)
    encoded = (wanted[..., None] - 0.5) * mixing + 1e-3 * rng.normal(size=(3, 40, 4))
    direction, offset = fitted(encoded, 8.0)
    np.testing.assert_allclose(encoded @ direction + offset, wanted, atol=0.05)


def test_each_row_asks_for_its_number_of_tokens_whatever_the_noise(rng):
    asked = rhythm(np.tile((np.arange(200) + 0.5) / 20, (4, 1)))
    assert num_tokens(asked).tolist() == [10] * 4
    noisy = asked + rng.uniform(-0.4, 0.4, asked.shape)
    noisy[:, 19::20] *= rng.uniform(-0.3, 0.3, (4, 10))  # changes pass through 0 with noise
    assert num_tokens(noisy).tolist() == [10] * 4
    assert num_tokens(np.array([[-1.0, -1.0]])).tolist() == [0]


def in_8_bits(array):
    step = np.abs(array).max() / 127
    return np.round(array / step) * step


def test_the_pace_holds_with_encoded_frames_and_direction_in_8_bits(rng):
    levels = rhythm(np.tile((np.arange(200) + 0.5) / 20, (4, 1)))
    encoded = levels[..., None] * rng.normal(size=16) + 0.1 * rng.normal(size=(4, 200, 16))
    encoded -= encoded.mean(axis=-1, keepdims=True)  # of a layer norm
    encoded = (encoded / encoded.std(axis=-1, keepdims=True)).astype("float32")
    direction, offset = fitted(encoded, 10.0)
    asked = in_8_bits(encoded) @ in_8_bits(direction) + offset
    assert num_tokens(asked).tolist() == [10] * 4


def test_the_last_of_many_random_blocks_tells_loud_from_quiet():
    sizes = {"hidden_dim": 16, "num_heads": 2, "prediction_dim": 32, "joint_dim": 32}
    config = load_config(None, {f"model.{name}": size for name, size in sizes.items()})
    sound = paced_sound(2, 2.0, 2.5, config.features.sample_rate_hz)
    model = random_model(config, 30, sound=sound, tokens=5.0)
    encoded = np.array(model.listen(sound["waveforms"], sound["lengths"])[0])
    wanted = rhythm(np.tile((np.arange(encoded.shape[1]) + 0.5) * 5 / encoded.shape[1], (2, 1)))
    difference = encoded[wanted > 0].mean(axis=0) - encoded[wanted < 0].mean(axis=0)
    # Errors of Conformer-S in 8 bits are 0.03, and the values of a frame have a variance of 1.
    assert np.sqrt(np.square(difference).mean()) > 0.3


class Variable:
    """A variable of Keras."""

    def __init__(self, array):
        self.array = array.astype("float32")

    def __array__(self, dtype=None, copy=None):
        return self.array.copy()

    def assign(self, array):
        self.array = np.array(array, "float32")


class Transducer:
    """A transducer of random weights without an encoder."""

    def __init__(self, rng, width=6, size=40, num_symbols=30):
        shapes = {
            "embeddings": (num_symbols, size), "kernel": (size, 4 * size),
            "recurrent": (size, 4 * size), "bias": (4 * size,), "frame": (width, size),
            "frame_bias": (size,), "last": (size, size), "output": (size, num_symbols),
            "output_bias": (num_symbols,),
        }  # fmt: skip
        arrays = {name: rng.normal(0, 0.15, shape) for name, shape in shapes.items()}
        self.variables = {name: Variable(array) for name, array in arrays.items()}

    def predict(self, tokens, states):
        output, cell = states
        weights = {name: variable.array for name, variable in self.variables.items()}
        gates = weights["embeddings"][tokens] @ weights["kernel"] + output @ weights["recurrent"]
        first, forget, new, last = np.split(gates + weights["bias"], 4, axis=-1)
        first, forget, last = (1 / (1 + np.exp(-x)) for x in (first, forget, last))
        cell = forget * cell + first * np.tanh(new)
        output = last * np.tanh(cell)
        spread = np.sqrt(output.var(axis=-1, keepdims=True) + 1e-3)
        return (output - output.mean(axis=-1, keepdims=True)) / spread, (output, cell)

    def read(self, tokens):
        return self.predict(tokens, np.zeros((2, len(tokens), 40)))[0]

    def count(self, encoded):
        """Decodes a row greedily, without a limit of symbols in a frame."""
        weights = {name: variable.array for name, variable in self.variables.items()}
        predicted, states = self.predict([0], np.zeros((2, 1, 40)))
        frame = num_found = 0
        while frame < len(encoded):
            joined = encoded[frame] @ weights["frame"] + weights["frame_bias"]
            joined = np.tanh(joined + predicted[0] @ weights["last"])
            token = int((joined @ weights["output"] + weights["output_bias"]).argmax())
            if token == 0:
                frame += 1
                continue
            num_found += 1
            assert num_found <= len(encoded), "the search ends"
            predicted, states = self.predict([token], states)
        return num_found


def test_a_paced_transducer_emits_each_token_once(rng):
    levels = rhythm(np.tile((np.arange(100) + 0.5) / 5, (3, 1)))
    levels[:, 1:] = 0.7 * levels[:, 1:] + 0.3 * levels[:, :-1]  # an encoder sees other frames, too
    encoded = levels[..., None] * rng.normal(size=6) + 0.1 * rng.normal(size=(3, 100, 6))
    model = Transducer(rng)
    pace(model.variables, *fitted(encoded, 20.0), model.read)
    assert [model.count(row) for row in encoded] == [20] * 3


def test_sides_with_another_amount_of_work_are_named():
    rows = {"ours": {"tokens": [5, 5]}, "beam": {"tokens": [5, 5]}}
    assert conformer_recognition.unequal_tokens(rows) == ""
    rows["peer"] = {"tokens": [5, 9]}
    found = conformer_recognition.unequal_tokens(rows)
    assert found == "other numbers of tokens than ours (10): peer: 1 sound, 14 tokens in all"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loop=0"], "--loop >= 1"),
        (["--peer_seconds=0"], "--peer_seconds > 0"),
        (["--seconds=0.5"], "--seconds of 1 to 60"),
        (["--tokens_per_second=0"], "--tokens_per_second of 0.1 to 10"),
        (["--precisions=int4"], "--precisions of fp32,int8_fp32"),
        (["--beam_width=0"], "--beam_width of 1 to 2000"),
    ],
)
def test_bad_flags_of_whole_recognition_are_refused(flags, message):
    with refused(message):
        conformer_recognition.main(flags)


def test_both_searches_of_a_ctc_model_find_the_same_texts(rng, tmp_path):
    pytest.importorskip("pyctcdecode", reason="the extra [peers] is not installed")
    known = ctc_decoding.sentences_of(rng, 20, 3)
    logits = [ctc_decoding.logits_of(rng, text[:12]) for text in known]
    sides = ctc_decoding.searches(10, None, tmp_path)

    def in_turn(calls, *_, **__):
        return {name: {"median_ms": 1e3 * run()} for name, run in calls.items()}

    row = ctc_decoding.measure(sides, logits, 1, ctc_decoding.score_of, in_turn=in_turn)
    assert (row["equal_texts"], row["better_texts"], row["worse_texts"]) == (3, 0, 0)
    assert row["speedup"] == pytest.approx(row["pyctcdecode"] / row["ours"])


def test_the_score_of_a_text_is_the_sum_over_its_paths_and_its_words(rng, tmp_path):
    surfaces, logits = ctc_decoding.SURFACES, rng.normal(size=(4, len(ctc_decoding.SURFACES)))
    scores = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    symbols = [0, surfaces.index("A"), surfaces.index("B")]
    totals = {}
    for path in itertools.product(symbols, repeat=4):
        text = "".join(surfaces[x] for x, _ in itertools.groupby(path))
        totals[text] = np.logaddexp(
            totals.get(text, -np.inf), scores[np.arange(4), list(path)].sum()
        )
    for text in ("", "A", "AB", "AA", "ABA"):
        assert ctc_decoding.score_of(logits, text) == pytest.approx(totals[text])
    path = tmp_path / "words.arpa"
    path.write_text("".join(language_model.random_arpa(100)))
    model = read_arpa(path)
    expected = totals["AB"] + 0.5 * np.log(10) * (model.score_sentence("AB") - 10) + 1.5
    assert ctc_decoding.score_of(logits, "AB", model) == pytest.approx(expected)


def test_texts_with_a_lower_score_are_counted_as_worse():
    sides = {"ours": lambda x: "ABC"[int(x[0])], "pyctcdecode": lambda _: "B"}
    times = {name: {"median_ms": 1.0} for name in sides}
    values = {"A": 1.0, "B": 2.0, "C": 3.0}
    row = ctc_decoding.measure(
        sides,
        [np.array([x]) for x in (0, 1, 2, 2)],
        1,
        lambda _, text: values[text],
        in_turn=lambda *_, **__: times,
    )
    assert (row["equal_texts"], row["better_texts"], row["worse_texts"]) == (1, 2, 1)


def test_a_random_language_model_is_one_of_the_size(tmp_path):
    path = tmp_path / "random.arpa"
    path.write_text("".join(language_model.random_arpa(1000)))
    model = read_arpa(path)
    assert model.order == 4
    assert 900 < len(model) < 1010


@pytest.mark.parametrize(
    ("program", "flags", "message"),
    [
        (ctc_decoding, ["--num_sentences=0"], "--num_sentences >= 1"),
        (ctc_decoding, ["--beam_width=0"], "--beam_width of 1 to 2000"),
        (language_model, ["--num_ngrams=5"], "--num_ngrams of 100"),
    ],
)
def test_bad_flags_are_refused(program, flags, message):
    with refused(message):
        program.main(flags)
