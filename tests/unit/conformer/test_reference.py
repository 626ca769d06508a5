"""Compares values and gradients of all layers and the transducer with NumPy in float64."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import conformer
from conformer.attention import RelativeMultiHeadAttention, relative_positions
from conformer.convolution import ConvolutionModule
from conformer.encoder import ConformerBlock, ConformerEncoder, FeedForward
from conformer.features import LogMelSpectrogram
from conformer.graph_recognition import greedy
from conformer.joint import JointNetwork
from conformer.prediction import PredictionNetwork
from conformer.subsampling import ConvolutionSubsampling
from conformer.transducer_loss import transducer_loss
from tests.golden import make_conformer as golden
from tests.support import conformer_reference as reference
from tools.layers.batch_norm import BatchNormalization

WIDTH, HEADS = 6, 2
FRAMES = np.array([7, 4, 1])
GARBAGE = [np.nan, 1e30, -1e30]
# The subsampling output at padded frames is finite, but undefined.
FINITE_GARBAGE = [50.0, -1e3, 1e3]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def padded(rows, size, garbage):
    """Returns rows `[T, ...]` as one float32 array with garbage in the padding."""
    batch = np.empty((len(rows), size, *rows[0].shape[1:]), "float32")
    for place, row, fill in zip(batch, rows, garbage, strict=True):
        place[: len(row)], place[len(row) :] = row, fill
    return batch


def mask_of(lengths, size):
    return np.arange(size)[None] < np.asarray(lengths)[:, None]


class Case:
    """A layer, its inputs as a list of utterances, and both ways to compute it.

    Attributes:
        layer: built, its weights drawn.
        rows: an array for each utterance.
        run: function of a padded batch, to a padded batch of at least the expected lengths.
        of: the definition, a function of weights and rows, to rows and moving statistics.
        garbage: in the padding of each utterance.
    """

    def __init__(self, layer, run, of, rows, garbage=FINITE_GARBAGE):
        self.layer, self.run, self.of, self.rows, self.garbage = layer, run, of, rows, garbage
        layer.build((None, None, rows[0].shape[-1]))
        reference.randomize(layer, np.random.default_rng(7))

    def batch(self, garbage=None):
        return padded(self.rows, max(map(len, self.rows)) + 2, garbage or self.garbage)


def without_statistics(function):
    return lambda weights, rows: ([function(weights, row) for row in rows], {})


def sequences(rng, lengths=FRAMES, width=WIDTH):
    return [rng.normal(0.3, 1.2, (n, width)) for n in lengths]


def make_case(name, training):
    """Returns a layer in training mode, with dropout rate 0, or in evaluation mode."""
    rng = np.random.default_rng(5)
    rate = 0.0 if training else 0.5
    rows = sequences(rng)
    size = max(FRAMES) + 2
    positions, mask = relative_positions(size, WIDTH), mask_of(FRAMES, size)

    def with_mode(function):
        return lambda weights, rows: function(weights, rows, training)

    if name == "feed_forward":
        layer = FeedForward(9, rate)
        of = without_statistics(reference.feed_forward)
        return Case(layer, lambda x: layer(x, training=training), of, rows)
    if name.startswith("attention"):
        layer = RelativeMultiHeadAttention(1 if name == "attention_1_head" else HEADS, 4)
        of = without_statistics(reference.relative_attention)
        return Case(layer, lambda x: layer(x, positions, mask), of, rows)
    if name == "batch_norm":
        layer = BatchNormalization(momentum=0.99, epsilon=1e-3)
        of = with_mode(reference.batch_norm)
        return Case(layer, lambda x: layer(x, mask, training=training), of, rows, GARBAGE)
    if name.startswith("convolution_module"):
        layer = ConvolutionModule(int(name.rpartition("_")[2]), rate)
        of = with_mode(reference.convolution_module)
        return Case(layer, lambda x: layer(x, mask, training=training), of, rows)
    if name == "block":
        layer = ConformerBlock(HEADS, 9, 4, rate)
        of = with_mode(reference.block)
        return Case(layer, lambda x: layer(x, positions, mask, training=training), of, rows)
    # 10 bins are halved to 5, then to 3. The lengths have several remainders modulo 4.
    lengths = np.array([13, 8, 3])
    rows = sequences(rng, lengths, 10)
    if name == "subsampling":
        layer = ConvolutionSubsampling(3, WIDTH, rate)
        of = without_statistics(reference.subsample)
    else:
        layer = ConformerEncoder(
            2, WIDTH, HEADS, 9, kernel_size=5, subsampling_filters=3, dropout_rate=rate
        )
        of = with_mode(reference.encode)
    return Case(layer, lambda x: layer(x, lengths, training=training)[0], of, rows, GARBAGE)


LAYERS = [
    "feed_forward",
    "attention",
    "attention_1_head",
    "batch_norm",
    "convolution_module_4",
    "convolution_module_5",
    "block",
    "subsampling",
    "encoder",
]
modes = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])


@modes
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_its_definition_and_reads_no_padding(name, training):
    case = make_case(name, training)
    weights = reference.weights_of(case.layer)
    expected, moving = case.of(weights, case.rows)
    found = np.asarray(case.run(case.batch()))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours[: len(theirs)], theirs, **TOLERANCE)
    after = reference.weights_of(case.layer)
    for path in after:
        np.testing.assert_allclose(
            after[path], moving.get(path, weights[path]), **TOLERANCE, err_msg=path
        )
    if moving:
        assert training == all(np.any(after[path] != weights[path]) for path in moving)


@pytest.mark.parametrize("name", LAYERS)
def test_a_gradient_equals_finite_differences_of_the_definition(name):
    """The derivative is along a random direction of each variable and of the inputs."""
    case = make_case(name, training=True)
    weights = reference.weights_of(case.layer)
    rng = np.random.default_rng(11)
    expected, _ = case.of(weights, case.rows)
    upstream = [rng.normal(size=row.shape) for row in expected]

    def value(weights, rows):
        outputs, _ = case.of(weights, rows)
        return sum(np.sum(y * up) for y, up in zip(outputs, upstream, strict=True))

    x = tf.constant(case.batch(FINITE_GARBAGE if name == "batch_norm" else None))
    variables = {v.path.split("/", 1)[1]: v for v in case.layer.trainable_variables}
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = case.run(x)
        total = tf.add_n(
            [tf.reduce_sum(y[: len(up)] * up) for y, up in zip(found, upstream, strict=True)]
        )
    gradients, of_inputs = tape.gradient(total, ({k: v.value for k, v in variables.items()}, x))
    step = 1e-5
    for path, gradient in gradients.items():
        direction = rng.normal(size=weights[path].shape)
        ahead, behind = (
            value({**weights, path: weights[path] + sign * step * direction}, case.rows)
            for sign in (1, -1)
        )
        slope = np.sum(np.asarray(gradient, "float64") * direction)
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-4, abs=1e-4), path
    directions = [rng.normal(size=row.shape) for row in case.rows]
    ahead, behind = (
        value(weights, [x + sign * step * d for x, d in zip(case.rows, directions, strict=True)])
        for sign in (1, -1)
    )
    slope = sum(
        np.sum(np.asarray(gradient, "float64")[: len(d)] * d)
        for gradient, d in zip(of_inputs, directions, strict=True)
    )
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-4, abs=1e-4)
    for gradient, row in zip(of_inputs, case.rows, strict=True):
        assert not np.any(gradient[len(row) :]), "padding has a gradient"


def test_dropout_follows_every_module_and_the_first_half_of_feed_forward(monkeypatch, rng):
    """Dropout is replaced by a layer that multiplies by a number."""

    def call(self, inputs, training=False):
        return inputs * (2.0 - self.rate) if training else inputs

    monkeypatch.setattr(keras.layers.Dropout, "call", call)
    layer = ConformerEncoder(
        2, WIDTH, HEADS, 9, kernel_size=5, subsampling_filters=3, dropout_rate=0.25
    )
    layer.build((None, None, 10))
    reference.randomize(layer, rng)
    weights, rows = reference.weights_of(layer), sequences(rng, [9, 4], 10)
    for training, factor in ((False, 1.0), (True, 1.75)):
        expected, _ = reference.encode(weights, rows, training, lambda x, by=factor: by * x)
        found, _ = layer(padded(rows, 9, [0.0, 0.0]), np.array([9, 4]), training=training)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours[: len(theirs)], theirs, **TOLERANCE)


@pytest.fixture
def prediction():
    layer = PredictionNetwork(7, WIDTH)
    layer.build((None, None))
    reference.randomize(layer, np.random.default_rng(8))
    return layer


def test_the_prediction_network_equals_its_definition(prediction, rng):
    tokens = rng.integers(0, 7, (2, 5))
    weights = reference.weights_of(prediction)
    states = rng.normal(size=(2, 2, WIDTH)).astype("float32")
    for start in (None, states):
        found, after = prediction(tokens, start)
        for row in range(2):
            begin = None if start is None else tuple(start[row].astype("float64"))
            expected, state = reference.predict(weights, tokens[row], begin)
            np.testing.assert_allclose(found[row], expected, **TOLERANCE)
            np.testing.assert_allclose(after[row], np.stack(state), **TOLERANCE)
            # A single token uses another branch of the layer.
            first, one = prediction(
                tokens[row : row + 1, :1], None if start is None else start[[row]]
            )
            np.testing.assert_allclose(first[0, 0], expected[0], **TOLERANCE)
            _, state = reference.predict(weights, tokens[row, :1], begin)
            np.testing.assert_allclose(one[0], np.stack(state), **TOLERANCE)


def test_the_joint_network_equals_its_definition(rng):
    layer = JointNetwork(5, 7)
    layer.build((None, None, WIDTH), (None, None, 4))
    reference.randomize(layer, rng)
    encoded, predicted = rng.normal(size=(2, 3, WIDTH)), rng.normal(size=(2, 4, 4))
    found = layer(encoded.astype("float32"), predicted.astype("float32"))
    weights = reference.weights_of(layer)
    for ours, x, y in zip(found, encoded, predicted, strict=True):
        np.testing.assert_allclose(ours, reference.join(weights, x, y), **TOLERANCE)


def slopes(layer, run, value, rng):
    """Returns derivatives by tape and by definition, along a direction of each variable."""
    weights = reference.weights_of(layer)
    variables = {v.path.split("/", 1)[1]: v for v in layer.trainable_variables}
    with tf.GradientTape() as tape:
        total = run()
    gradients = tape.gradient(total, {k: v.value for k, v in variables.items()})
    for path, gradient in gradients.items():
        direction = rng.normal(size=weights[path].shape)
        ahead, behind = (
            value({**weights, path: weights[path] + sign * 1e-5 * direction}) for sign in (1, -1)
        )
        dense = np.asarray(tf.convert_to_tensor(gradient), "float64")
        yield path, np.sum(dense * direction), (ahead - behind) / 2e-5


def test_gradients_of_prediction_and_joint_network_equal_finite_differences(prediction, rng):
    joint = JointNetwork(5, 7)
    joint.build((None, None, 3), (None, None, WIDTH))
    reference.randomize(joint, rng)
    encoded = rng.normal(size=(4, 3))
    tokens = [0, 3, 3, 6]
    upstream = rng.normal(size=(4, 4, 7))
    fixed = reference.weights_of(joint)
    states, _ = reference.predict(reference.weights_of(prediction), tokens)

    def run():
        predicted, _ = prediction(np.array([tokens]))
        return tf.reduce_sum(joint(encoded[None].astype("float32"), predicted)[0] * upstream)

    def by_prediction(weights):
        predicted, _ = reference.predict(weights, tokens)
        return np.sum(reference.join(fixed, encoded, predicted) * upstream)

    def by_joint(weights):
        return np.sum(reference.join(weights, encoded, states) * upstream)

    for layer, value in ((prediction, by_prediction), (joint, by_joint)):
        for path, slope, expected in slopes(layer, run, value, rng):
            assert slope == pytest.approx(expected, rel=1e-4, abs=1e-4), path


@pytest.fixture(scope="module")
def speech():
    """Returns sounds of several levels and lengths, one of them below the power floor."""
    rng = np.random.default_rng(3)
    lengths = [5000, 3199, 900, 161]
    envelopes = [1.0, np.geomspace(1.0, 1e-7, 3199), 0.01, 0.3]
    return [rng.normal(size=n) * envelope for n, envelope in zip(lengths, envelopes, strict=True)]


def listen(layer, waveforms):
    lengths = np.array([len(x) for x in waveforms])
    batch = padded(waveforms, max(lengths), [np.nan, 1e30, -np.inf, np.inf][: len(lengths)])
    features, frames = layer(batch, lengths)
    return np.asarray(features), np.asarray(frames)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_db": 20.0},
        {"frame_length_ms": 20.0, "frame_step_ms": 12.5, "fft_length": 1024},
        {"frame_length_ms": 32.0, "frame_step_ms": 32.0, "num_mel_bins": 23},
        {"sample_rate_hz": 8000, "fft_length": 256, "preemphasis": 0.0},
        {"sample_rate_hz": 8000, "fft_length": 200, "min_hz": 60.0, "max_hz": 3400.0},
        {"min_hz": 300.0, "preemphasis": 0.5, "num_mel_bins": 40},
        {"max_hz": 4000.0, "num_mel_bins": 48},
        {"normalization": "loud_frames"},
        {"normalization": "loud_frames", "loud_frames_db": 12.0, "max_hz": 4000.0},
        {"remove_dc_offset": True},
        {"remove_dc_offset": True, "preemphasis": 0.5, "normalization": "loud_frames"},
    ],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()) or "defaults",
)
def test_features_equal_their_definition_whatever_the_options(speech, options):
    found, frames = listen(LogMelSpectrogram(**options), speech)
    for row, count, waveform in zip(found, frames, speech, strict=True):
        expected = reference.log_mel_spectrogram(waveform, **options)
        assert count == len(expected)
        np.testing.assert_allclose(row[:count], expected, **TOLERANCE)
        assert not np.any(row[count:])


def test_options_of_the_features_each_change_them(speech):
    """Finds options that are ignored by both the layer and the reference."""
    plain, _ = listen(LogMelSpectrogram(), speech)
    for options in (
        {"sample_rate_hz": 8000, "frame_length_ms": 50.0, "frame_step_ms": 20.0},
        {"frame_length_ms": 20.0},
        {"fft_length": 1024},
        {"min_hz": 60.0},
        {"max_hz": 4000.0},
        {"preemphasis": 0.9},
        {"top_db": 60.0},
        {"normalization": "loud_frames"},
        {"remove_dc_offset": True},
    ):
        other, _ = listen(LogMelSpectrogram(**options), speech)
        assert other.shape == plain.shape
        assert np.abs(other - plain).max() > 1e-2, options


LABELS = [[3, 6, 6], [1], [], [2, 5]]


@modes
def test_the_whole_transducer_equals_its_definition(tiny_config, speech, training):
    sizes = dataclasses.replace(tiny_config.model, dropout_rate=0.0 if training else 0.5)
    config = dataclasses.replace(tiny_config, model=sizes)
    model = conformer.build_model(config, vocabulary_size=7)
    reference.randomize(model, np.random.default_rng(4))
    weights = reference.weights_of(model)
    expected, moving = reference.transduce(weights, speech, LABELS, training)
    lengths = np.array([len(x) for x in speech])
    waveforms = padded(speech, max(lengths) + 500, [np.nan, 1e30, -np.inf, np.inf])
    labels = padded([np.array(row) for row in LABELS], 5, [3, 1, 6, 5]).astype("int32")
    logits, frames = model(waveforms, lengths, labels, training=training)
    for row, count, theirs in zip(np.asarray(logits), frames, expected, strict=True):
        assert count == theirs.shape[0]
        np.testing.assert_allclose(row[:count, : theirs.shape[1]], theirs, **TOLERANCE)
    after = reference.weights_of(model)
    for path, value in after.items():
        np.testing.assert_allclose(
            value, moving.get(path, weights[path]), **TOLERANCE, err_msg=path
        )


def test_the_whole_transducer_computes_what_the_golden_file_holds(project):
    """Renamed weights or other defaults would break the models of users."""
    with np.load(project / "tests/golden/conformer.npz") as file:
        arrays = dict(file)

    def kept(prefix):
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    sounds, weights = list(kept("sounds/").values()), kept("weights/")
    model = golden.build()
    variables = {v.path.split("/", 1)[1]: v for v in model.weights}
    assert {k: tuple(v.shape) for k, v in variables.items()} == {
        k: v.shape for k, v in weights.items()
    }
    for path, variable in variables.items():
        variable.assign(weights[path])

    lengths = np.array([len(x) for x in sounds])
    waveforms = padded(sounds, max(lengths) + 300, [np.nan, np.inf, 1e30])
    labels = padded([np.array(row) for row in golden.LABELS], 4, [6, 6, 6]).astype("int32")
    label_lengths = [len(row) for row in golden.LABELS]
    features, frames = model.features(waveforms, lengths)
    for row, (found, count) in enumerate(zip(features, frames, strict=True)):
        np.testing.assert_allclose(found[:count], arrays[f"features/{row}"], **TOLERANCE)
    heard = greedy(model, tf.constant(waveforms), tf.constant(lengths), 5)
    for row, count in enumerate(heard.token_lengths):
        np.testing.assert_array_equal(heard.token_ids[row, :count], arrays[f"tokens/{row}"])
        expected = arrays[f"log_probability/{row}"]
        np.testing.assert_allclose(heard.log_probability[row], expected, rtol=1e-4)
    for training, mode in ((False, "evaluation"), (True, "training")):
        logits, frames = model(waveforms, lengths, labels, training=training)
        losses = transducer_loss(logits, labels, frames, label_lengths)
        for row, (found, loss) in enumerate(zip(logits, losses, strict=True)):
            expected = arrays[f"{mode}/logits_{row}"]
            assert frames[row] == len(expected)
            inside = found[: len(expected), : expected.shape[1]]
            np.testing.assert_allclose(inside, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(loss, arrays[f"{mode}/loss_{row}"], rtol=1e-5)
    for path, expected in kept("moving/").items():
        np.testing.assert_allclose(variables[path], expected, **TOLERANCE, err_msg=path)
