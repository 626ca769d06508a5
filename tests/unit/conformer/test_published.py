"""Published Conformers: features, encoders and decoders against NumPy and golden models."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

import conformer
from conformer.features import LogMelSpectrogram
from conformer.published import read_published
from conformer.published_weights import published_tensors
from conformer.session import transcript_normalization
from conformer.signatures import pipeline_description
from conformer.tokenizer import SentencePieceTokenizer
from tests.support import parakeet
from tests.support.parakeet import Sizes
from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.greedy import GreedySearch
from tools.decoding.tdt import TdtSearch
from tools.recognition.word_times import FrameTimes
from tools.speech.ctc import ctc_loss

TDT = Sizes()
RNNT = Sizes(kind="rnnt", bias=True, scale=True, kernel=9, lstms=1)
CTC = Sizes(kind="ctc", factor=4, depthwise=False, norm="layer", kernel=7, scale=True, mels=21)
LENGTHS = (4000, 2890, 320, 7117)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def sounds():
    rng = np.random.default_rng(2)
    return [rng.normal(size=n).astype("float32") * np.geomspace(1, 0.01, n) for n in LENGTHS]


def padded(rows, garbage):
    batch = np.full((len(rows), max(map(len, rows)) + 50, *rows[0].shape[1:]), garbage, "float32")
    for place, row in zip(batch, rows, strict=True):
        place[: len(row)] = row
    return batch


@pytest.mark.parametrize("normalization", ["per_bin", "none"])
def test_the_front_end_of_nemo(sounds, normalization):
    layer = LogMelSpectrogram(num_mel_bins=24, extractor="nemo", normalization=normalization)
    lengths = np.array([*LENGTHS, 0, 159, 200])
    rows = [*sounds, np.zeros(0), np.ones(159), np.sin(np.arange(200.0))]
    found, frames = layer(padded(rows, np.nan), lengths)
    np.testing.assert_array_equal(frames, lengths // 160)
    for row, count, waveform in zip(np.asarray(found), frames, rows[:4], strict=False):
        expected = parakeet.features(waveform, 24, normalization == "per_bin")
        np.testing.assert_allclose(row[:count], expected, rtol=1e-4, atol=3e-4)
        assert not np.any(row[count:])
    if normalization == "per_bin":  # a single frame has no deviation
        np.testing.assert_allclose(found[6, 0], 0.0, atol=1e-3)


class Case:
    """A tiny published model: as tensors, as a folder or an archive, and as a built model."""

    def __init__(self, sizes, source, tensors):
        self.sizes, self.tensors, self.source = sizes, tensors, source
        self.published = read_published(source)
        self.model = self.published.build()

    def call(self, inputs, signature):
        if signature == "predict":
            predicted, after = self.model.predict(inputs["tokens"], inputs["states"])
            return {"predicted": np.asarray(predicted), "next_states": np.asarray(after)}
        logits = self.model.join(inputs["encoded"], inputs["predicted"])
        return {"logits": np.asarray(logits)}

    def search(self):
        config = self.published.config
        options = {
            "blank": 0,
            "state_shape": self.model.prediction.state_shape,
            "max_symbols_per_frame": config.decoding.max_symbols_per_frame,
        }
        if config.model.durations:
            return TdtSearch(self.call, durations=config.model.durations, **options)
        return GreedySearch(self.call, **options)


@pytest.fixture(scope="module")
def make(tmp_path_factory, sentencepiece_model):
    """Returns a function that writes and reads a model as a folder or as an archive."""

    def made(sizes, as_nemo):
        folder = tmp_path_factory.mktemp("published")
        tensors = parakeet.make_tensors(sizes, np.random.default_rng(6))
        if not as_nemo:
            return Case(sizes, parakeet.write_folder(folder, sizes, tensors), tensors)
        members = parakeet.nemo_members(sizes, tensors, sentencepiece_model, folder)
        path = parakeet.write_nemo(folder / "m.nemo", members, compressed=sizes.kind == "ctc")
        return Case(sizes, path, tensors)

    return made


@pytest.fixture(scope="module")
def tdt(make):
    return make(TDT, as_nemo=False)


@pytest.fixture(scope="module")
def rnnt(make):
    return make(RNNT, as_nemo=False)


@pytest.fixture(scope="module")
def ctc(make):
    return make(CTC, as_nemo=True)


@pytest.fixture(params=["tdt", "rnnt", "ctc"])
def case(request):
    return request.getfixturevalue(request.param)


def encoded(case, sounds):
    """Returns the encoded frames of a padded batch, with garbage in the padding, and references."""
    rows = [parakeet.features(x, case.sizes.mels) for x in sounds]
    lengths = np.array([len(x) for x in rows])
    found, counts = case.model.encode(padded(rows, 1e3), lengths)
    expected = [parakeet.encode(case.tensors, case.sizes, x) for x in rows]
    np.testing.assert_array_equal(counts, -(-lengths // case.sizes.factor))
    return np.asarray(found), np.asarray(counts), expected


def test_encoders_equal_their_definition_in_a_ragged_batch(case, sounds):
    found, _, expected = encoded(case, sounds)
    for row, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(row[: len(theirs)], theirs, **TOLERANCE)
        assert not np.any(row[len(theirs) :])


def test_weights_are_written_as_they_are_read(case):
    found = published_tensors(case.model, case.sizes.vocabulary - 1)
    expected = {k: x for k, x in case.tensors.items() if not k.endswith(".num_batches_tracked")}
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        value = found[name]
        if ".bias_ih_l" in name:  # the two biases of PyTorch's LSTM are one
            other = name.replace("_ih_", "_hh_")
            value, x = value + found[other], x + expected[other]
        elif ".bias_hh_l" in name:
            continue
        np.testing.assert_allclose(value, x, rtol=1e-6, atol=1e-7)


def test_ctc_logits_and_tokens(ctc, sounds):
    found, counts, expected = encoded(ctc, sounds)
    logits = np.asarray(ctc.model.ctc_head(found))
    for row, count, theirs in zip(logits, counts, expected, strict=True):
        theirs = parakeet.in_own_order(parakeet.ctc_logits(ctc.tensors, theirs), ctc.sizes)
        np.testing.assert_allclose(row[:count], theirs, **TOLERANCE)
    search = CtcGreedySearch(0)
    state = search.advance(search.start(len(counts)), logits, counts)
    for number, found in enumerate(search.finish(state)):
        path = logits[number, : counts[number]].argmax(axis=1)
        changes = np.flatnonzero(np.diff(path, prepend=-1))
        np.testing.assert_array_equal(found.tokens, path[changes][path[changes] > 0])
    assert ctc.model.joint is None


@pytest.mark.parametrize("name", ["tdt", "rnnt"])
def test_prediction_and_joint_network_equal_their_definition(name, request, sounds):
    case = request.getfixturevalue(name)
    labels = np.array([[1, 5, 5, 20, 19], [2, 19, 1, 3, 7]])  # in this project's order
    predicted = np.asarray(case.model.predict_labels(labels))
    found, _, expected = encoded(case, sounds[:2])
    logits = np.asarray(case.model.join(found, predicted))
    for row in range(2):
        predictor = parakeet.Predictor(case.tensors)
        published = [case.sizes.vocabulary - 1, *(labels[row] - 1)]
        states = [predictor(token) for token in published]
        for t, u in np.ndindex(len(expected[row]), len(states)):
            theirs = parakeet.join(case.tensors, expected[row][t], states[u])
            np.testing.assert_allclose(
                logits[row, t, u], parakeet.in_own_order(theirs, case.sizes), **TOLERANCE
            )


@pytest.mark.parametrize("name", ["tdt", "rnnt"])
def test_greedy_search_alone_in_a_batch_and_in_pieces(name, request, sounds):
    case = request.getfixturevalue(name)
    found, counts, expected = encoded(case, sounds)
    search = case.search()
    whole = search.finish(search.advance(search.start(len(counts)), found, counts))
    state = search.start(len(counts))
    for begin in range(0, found.shape[1], 2):
        piece = np.clip(counts - begin, 0, 2)
        state = search.advance(state, found[:, begin : begin + 2], piece)
    limit = case.published.config.decoding.max_symbols_per_frame
    total = 0
    for row, (one, cut) in enumerate(zip(whole, search.finish(state), strict=True)):
        steps = parakeet.greedy(case.tensors, case.sizes, expected[row], limit)
        tokens, frames, durations = np.array(steps, int).reshape(-1, 3).T
        for hypothesis in (one, cut):
            np.testing.assert_array_equal(hypothesis.tokens - 1, tokens)
            np.testing.assert_array_equal(hypothesis.starts, frames)
            if name == "tdt":
                np.testing.assert_array_equal(hypothesis.ends - hypothesis.starts, durations)
        assert one.log_probability == pytest.approx(cut.log_probability, rel=1e-5)
        alone = search.finish(
            search.advance(search.start(1), found[[row], : counts[row]], counts[[row]])
        )
        np.testing.assert_array_equal(alone[0].tokens, one.tokens)
        total += len(tokens)
    assert total > 3, "the model writes something"


def scripted(script, durations):
    """Returns a `TdtSearch` whose model answers each step from a list of (token, duration)."""
    steps = iter(script)

    def call(inputs, signature):
        if signature == "predict":
            predicted = np.zeros((1, 1, 1), np.float32)
            return {"predicted": predicted, "next_states": inputs["states"]}
        token, duration = next(steps)
        logits = np.full((1, 1, 1, 4 + len(durations)), -9.0, np.float32)
        logits[..., token] = logits[..., 4 + durations.index(duration)] = 9.0
        return {"logits": logits}

    options = {"blank": 0, "state_shape": (1,), "max_symbols_per_frame": 2}
    return TdtSearch(call, durations=durations, **options)


def test_rules_of_tdt_search():
    """A blank without duration moves by one frame, two symbols without duration, too."""
    script = [(0, 0), (1, 0), (2, 0), (3, 2), (1, 0), (0, 4), (2, 2)]
    search = scripted(script, [0, 2, 4])
    state = search.advance(search.start(1), np.zeros((1, 10, 1), "f4"), np.array([10]))
    (found,) = search.finish(state)
    np.testing.assert_array_equal(found.tokens, [1, 2, 3, 1, 2])
    np.testing.assert_array_equal(found.starts, [1, 1, 2, 4, 8])
    np.testing.assert_array_equal(found.ends, [1, 1, 4, 4, 10])
    assert state.steps == len(script)
    assert found.log_probability == pytest.approx(0.0, abs=1e-4)


def test_a_duration_skips_frames_of_the_next_piece():
    search = scripted([(1, 4), (2, 2)], [0, 2, 4])
    state = search.start(1)
    for length in (2, 1, 3):
        state = search.advance(state, np.zeros((1, length, 1), "f4"), np.array([length]))
    (found,) = search.finish(state)
    np.testing.assert_array_equal(found.starts, [0, 4])


@pytest.fixture(scope="module", params=["ctc", "rnnt", "tdt"])
def golden(request, shared_data):
    """Returns a golden model of transformers with its arrays, by name."""
    folder = shared_data / "golden_parakeet" / request.param
    with np.load(folder / "golden.npz") as file:
        arrays = dict(file)
    published = read_published(folder)
    sizes = dataclasses.replace(TDT, kind=request.param)
    case = Case.__new__(Case)
    case.sizes, case.published, case.model = sizes, published, published.build()
    return case, arrays, json.loads((folder / "golden.json").read_text())


def close(found, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * scale)


def test_golden_features_and_encoders(golden):
    case, arrays, _ = golden
    lengths = arrays["waveform_lengths"]
    waveforms = arrays["waveform"].copy()
    for row, length in zip(waveforms, lengths, strict=True):
        row[length:] = np.nan
    found, frames = case.model.features(waveforms, lengths)
    mask = arrays["feature_mask"]
    np.testing.assert_array_equal(frames, mask.sum(axis=1))
    np.testing.assert_allclose(found, arrays["features"], rtol=0, atol=3e-4)
    features = np.where(mask[:, :, None], arrays["features"], 1e3).astype("float32")
    encoded, counts = case.model.encode(features, frames)
    np.testing.assert_array_equal(counts, arrays["encoder_mask"].sum(axis=1))
    for row, count in enumerate(np.asarray(counts)):
        close(np.asarray(encoded)[row, :count], arrays["encoder"][row, :count])
        alone, _ = case.model.encode(features[[row], : frames[row]], frames[row : row + 1])
        close(np.asarray(alone)[0, :count], arrays["encoder"][row, :count])


def test_golden_outputs_and_texts(golden):
    case, arrays, told = golden
    counts = arrays["encoder_mask"].sum(axis=1)
    size = case.model.vocabulary_size

    def own(x):
        return np.concatenate([x[..., size - 1 : size], x[..., : size - 1], x[..., size:]], -1)

    if case.sizes.kind == "ctc":
        logits = np.asarray(case.model.ctc_head(arrays["encoder"]))
        close(logits, own(arrays["logits"]))
        labels = arrays["teacher_labels"]
        label_counts = (labels != size - 1).sum(axis=1).astype("int32")
        frames = counts.astype("int32")
        losses, _ = ctc_loss(logits, labels + 1, frames, label_counts, blank=0)
        assert np.mean(losses / label_counts) == pytest.approx(arrays["teacher_loss"], rel=1e-5)
        search = CtcGreedySearch(0)
        found = search.finish(search.advance(search.start(2), logits, counts))
    else:
        predicted = np.asarray(case.model.predict_labels(arrays["teacher_labels"] + 1))
        joint = case.model.joint
        close(joint.project_predicted(predicted), arrays["teacher_predictor"])
        close(joint.project_encoded(arrays["encoder"]), arrays["encoder_projected"])
        logits = case.model.join(arrays["encoder"], predicted)
        close(logits, own(arrays["teacher_logits"]))
        search = case.search()
        found = search.finish(search.advance(search.start(2), arrays["encoder"], counts))
        for row, one in enumerate(found):
            kept = arrays["greedy_tokens"][row] >= 0
            np.testing.assert_array_equal(one.tokens - 1, arrays["greedy_tokens"][row][kept])
            np.testing.assert_array_equal(one.starts, arrays["greedy_frames"][row][kept])
            if case.sizes.kind == "tdt":
                durations = arrays["greedy_durations"][row][kept]
                np.testing.assert_array_equal(one.ends - one.starts, durations)
    tokenizer = case.published.tokenizer
    decoded = [tokenizer.decode(one.tokens) for one in found]
    assert decoded == [text.strip() for text in told["texts"]]
    times = FrameTimes(pipeline_description(case.published.config, tokenizer, case.model))
    for row, one in enumerate(found):
        words = times.words(one, tokenizer.surfaces)
        assert [word.text for word in words] == decoded[row].split()
        # A word begins with a token that begins with a space. The token after a space begins one.
        tokens = told["timestamps"][row] if "timestamps" in told else []
        before = [" ", *(x["token"] for x in tokens)]
        starts = [
            x["start"]
            for x, last in zip(tokens, before, strict=False)
            if x["token"].strip() and (x["token"][0] == " " or last.strip() == "")
        ]
        for word, start in zip(words, starts, strict=bool(tokens)):
            # Frames are centered here: one begins half a frame earlier than in transformers.
            assert word.start_seconds == pytest.approx(max(start - 0.04, 0.0), abs=1e-3)


# Millions of parameters by the configurations of Hugging Face (transformers 5.23) and NeMo, number
# of symbols with the blank, and keys of this project.
FAST = {
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_filters": 256,
    "num_layers": 24,
    "hidden_dim": 1024,
    "num_heads": 8,
    "kernel_size": 9,
    "prediction_dim": 640,
    "prediction_layers": 2,
    "joint_dim": 640,
}
NO_BIAS = {"attention_bias": "none", "feedforward_bias": False, "convolution_bias": False}
DURATIONS = {"durations": (0, 1, 2, 3, 4)}
ONLY_CTC = {"transducer": False, "ctc_weight": 1.0, "decoding.head": "ctc"}
WIDE = {"features.num_mel_bins": 128}
SIZES_110M = {"num_layers": 17, "hidden_dim": 512, "prediction_layers": 1}
NEMO = {"num_layers": 16, "num_heads": 4, "kernel_size": 31}
NEMO_640 = {**NEMO, "prediction_dim": 640, "joint_dim": 640}
XLARGE = {"num_layers": 24, "hidden_dim": 1024, "num_heads": 8, "kernel_size": 5}
COUNTS = {
    "parakeet-tdt_ctc-110m": (114.1, 1025, FAST | DURATIONS | SIZES_110M),
    "parakeet-ctc-0.6b": (608.8, 1025, FAST | ONLY_CTC),
    "parakeet-ctc-1.1b": (1060.0, 1025, FAST | ONLY_CTC | {"num_layers": 42}),
    "parakeet-rnnt-0.6b": (616.7, 1025, FAST),
    "parakeet-tdt-0.6b-v2": (617.8, 1025, FAST | DURATIONS | NO_BIAS | WIDE),
    "parakeet-tdt-0.6b-v3": (627.0, 8193, FAST | DURATIONS | NO_BIAS | WIDE),
    "conformer_transducer_small": (14.6, 1025, {**NEMO, "hidden_dim": 176}),
    "conformer_transducer_medium": (32.5, 1025, {**NEMO_640, "hidden_dim": 256}),
    "conformer_transducer_large": (
        120.4,
        1025,
        {**NEMO_640, "num_layers": 17, "hidden_dim": 512, "num_heads": 8},
    ),
    "conformer_transducer_xlarge": (644.3, 1025, {**NEMO_640, **XLARGE, "prediction_layers": 2}),
}


@pytest.mark.parametrize("kind", ["pieces", "sentencepiece"])
def test_transcripts_have_the_case_of_the_vocabulary(kind, sentencepiece_model):
    for surfaces, expected in (
        (["", " the", "in"], "the in"),
        (["", " THE", "in"], "The IN"),
        (["", " THE", "IN"], "THE IN"),
    ):
        normalize = transcript_normalization({"vocabulary": {"kind": kind, "surfaces": surfaces}})
        assert normalize("The  IN") == expected
    assert SentencePieceTokenizer(sentencepiece_model).normalize("The TIN") == "the tin"


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_of_published_sizes(name):
    millions, vocabulary_size, sizes = COUNTS[name]
    values = {"attention_bias": "all", "prediction_norm": False, "joint_prediction_bias": True}
    values = {key if "." in key else f"model.{key}": x for key, x in (values | sizes).items()}
    counts = []
    for num_layers in (1, 2):  # all blocks have the same size
        config = conformer.load_config(None, values | {"model.num_layers": num_layers})
        with keras.StatelessScope(initialize_variables=False):  # without drawing initial values
            model = conformer.build_model(config, vocabulary_size)
        counts.append(sum(math.prod(v.shape) for v in model.trainable_variables))
    count = counts[0] + (values["model.num_layers"] - 1) * (counts[1] - counts[0])
    if config.model.transducer:  # PyTorch's LSTM has a second bias
        count += 4 * config.model.prediction_dim * config.model.prediction_layers
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions < 1000 else 5)
