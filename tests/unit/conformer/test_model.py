"""The whole model: sizes, padding, gradients, precision, and independence of the backend."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import conformer
from conformer.transducer_loss import transducer_loss
from tests.support import conformer_reference as reference
from tools.decoding.graph import greedy_decode

# Encoder and whole model at V = 1031, all variables counted (facts 5a).
SIZES = {
    "s": (8_710_848, 10_341_639),
    "m": (27_327_488, 32_502_919),
    "l": (115_111_424, 120_450_695),
}


@pytest.mark.parametrize("variant", SIZES)
def test_parameter_counts(variant, project):
    config = conformer.load_config(project / f"configs/conformer/conformer_{variant}.yml")
    with keras.StatelessScope(initialize_variables=False):  # nothing is drawn
        model = conformer.build_model(config, vocabulary_size=1031)
    encoder, whole = SIZES[variant]
    assert model.encoder.count_params() == encoder
    assert model.count_params() == whole
    assert model.features.count_params() == model.augment.count_params() == 0


@pytest.fixture
def inputs(rng):
    lengths = np.array([9000, 6001, 3333, 0])
    waveforms = rng.normal(size=(4, 9000)).astype("float32")
    for row, length in enumerate(lengths):
        waveforms[row, length:] = np.nan
    labels = rng.integers(1, 7, (4, 5))
    return waveforms, lengths, labels


def recognize(model, waveforms, lengths):
    features, frames = model.features(waveforms, lengths)
    encoded, frames = model.encode(features, frames)
    states = model.prediction.initial_state(len(lengths))
    return encoded, frames, greedy_decode(encoded, frames, model.predict, model.join, states, 2)


def test_padding_changes_nothing(tiny_model, inputs):
    waveforms, lengths, _ = inputs
    encoded, frames, batch = recognize(tiny_model, waveforms, lengths)
    assert np.all(np.isfinite(encoded))
    for row, length in enumerate(lengths[:3]):
        alone, alone_frames, single = recognize(
            tiny_model, waveforms[row : row + 1, :length], lengths[row : row + 1]
        )
        assert alone_frames[0] == frames[row]
        np.testing.assert_allclose(alone[0], encoded[row, : frames[row]], atol=1e-4)
        assert not np.any(encoded[row, frames[row] :])
        tokens = batch.token_ids[row, : batch.token_lengths[row]]
        np.testing.assert_array_equal(tokens, single.token_ids[0, : single.token_lengths[0]])
        np.testing.assert_allclose(batch.log_probability[row], single.log_probability[0], rtol=1e-4)
    assert batch.token_lengths[3] == 0


def test_every_trainable_variable_has_a_gradient(tiny_model, inputs):
    waveforms, lengths, labels = inputs
    with tf.GradientTape() as tape:
        logits, frames = tiny_model(waveforms, lengths, labels, training=True)
        label_lengths = [5, 3, 1, 0]
        loss = tf.reduce_sum(transducer_loss(logits, labels, frames, label_lengths))
    variables = tiny_model.trainable_variables
    for variable, gradient in zip(
        variables, tape.gradient(loss, [v.value for v in variables]), strict=True
    ):
        assert gradient is not None, variable.path
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.all(np.isfinite(gradient)), variable.path
        assert np.any(gradient), variable.path


def test_pieces_compose_to_the_whole(tiny_model, inputs):
    waveforms, lengths, labels = (x[:3] for x in inputs)
    logits, frames = tiny_model(waveforms, lengths, labels)
    features, feature_lengths = tiny_model.features(waveforms, lengths)
    encoded, encoded_lengths = tiny_model.encode(features, feature_lengths)
    np.testing.assert_array_equal(frames, encoded_lengths)
    predicted, _ = tiny_model.predict(np.pad(labels, [[0, 0], [1, 0]]))
    np.testing.assert_allclose(tiny_model.join(encoded, predicted), logits, atol=1e-5)
    # Label by label, the way a decoder reads, gives the same states.
    states = tiny_model.prediction.initial_state(3)
    for position, token in enumerate(np.pad(labels, [[0, 0], [1, 0]]).T):
        step, states = tiny_model.predict(tf.constant(token[:, None]), states)
        np.testing.assert_allclose(step[:, 0], predicted[:, position], atol=1e-5)


def test_lengths_follow_the_formula(tiny_model):
    for samples in (1600, 4799, 4800, 5000):
        features, frames = tiny_model.features(
            np.ones((1, samples), "float32"), np.array([samples])
        )
        encoded, lengths = tiny_model.encode(features, frames)
        expected = math.ceil(math.ceil(int(frames[0]) / 2) / 2)
        assert encoded.shape[1] == lengths[0] == expected


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)]
)
def test_mixed_precision_stays_near_float32_with_its_heads_in_float32(
    tiny_config, inputs, precision, tolerance
):
    """The tolerance is a share of the largest logit: about ten times the format's own rounding."""
    waveforms, lengths, labels = inputs
    models = [
        conformer.build_model(tiny_config, 7, precision=name) for name in ("float32", precision)
    ]
    for model in models:
        reference.randomize(model, np.random.default_rng(9))
    features, frames = models[1].features(waveforms, lengths)
    np.testing.assert_array_equal(features, models[0].features(waveforms, lengths)[0])
    encoded, _ = models[1].encode(features, frames)
    assert features.dtype == tf.float32
    assert encoded.dtype.name == precision.removeprefix("mixed_")
    (expected, counts), (logits, _) = (model(waveforms, lengths, labels) for model in models)
    assert logits.dtype == tf.float32
    assert {v.dtype for v in models[1].trainable_variables} == {"float32"}
    inside = np.arange(logits.shape[1]) < np.asarray(counts)[:, None]
    difference = np.abs(logits - expected)[inside]
    assert 0 < difference.max() < tolerance * np.abs(expected).max()


def test_variable_paths_are_unique(tiny_model):
    paths = [v.path for v in tiny_model.weights]
    assert len(set(paths)) == len(paths)
