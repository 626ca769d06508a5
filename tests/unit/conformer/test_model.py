"""Tests the whole model: sizes, padding, gradients, precision, and other Keras backends."""

import dataclasses
import inspect
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import conformer
from conformer.features import LogMelSpectrogram
from conformer.subsampling import ConvolutionSubsampling
from conformer.transducer_loss import transducer_loss
from tests.support import conformer_reference as reference
from tests.support.errors import refused
from tools.decoding.graph import greedy_decode
from tools.layers.batch_norm import BatchNormalization

# Parameters of the encoder and of the whole model at V = 1031, including all variables.
SIZES = {
    "s": (8_710_848, 10_341_639),
    "m": (27_327_488, 32_502_919),
    "l": (115_111_424, 120_450_695),
}


@pytest.mark.parametrize("variant", SIZES)
def test_parameter_counts(variant, project):
    config = conformer.load_config(project / f"configs/conformer/conformer_{variant}.yml")
    with keras.StatelessScope(initialize_variables=False):  # without drawing initial values
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
    return (
        encoded,
        frames,
        greedy_decode(
            encoded,
            frames,
            model.predict,
            model.join,
            initial_states=states,
            max_symbols_per_frame=2,
        ),
    )


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
    # One label per call, as in a decoder, gives the same states.
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
    """The tolerance is a fraction of the largest logit, about ten times the rounding error."""
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


def test_gradients_of_the_biases_below_the_encoder_do_not_overflow():
    """They are sums over all frames and bins, with equal terms in silence: far above 65504."""
    gradients = {}
    features, scale = np.zeros((1, 400, 80), np.float32), 2000.0
    for precision in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(1)
        layer = ConvolutionSubsampling(4, 8, dropout_rate=0.0, dtype=precision, name="below")
        layer.build((None, None, 80))
        for (convolution,) in layer.stages:
            convolution.kernel.assign(np.abs(convolution.kernel))
            convolution.bias.assign(np.full(4, 1e-3))
        layer.projection.kernel.assign(np.abs(layer.projection.kernel))
        variables = [v.value for v in layer.trainable_variables]
        with tf.GradientTape() as tape:
            outputs, _ = layer(features, np.array([400]))
            loss = scale * tf.reduce_sum(tf.cast(outputs, tf.float32))
        found = tape.gradient(loss, variables)
        gradients[precision] = {
            v.path: np.asarray(x)
            for v, x in zip(layer.trainable_variables, found, strict=True)
            if v.path.endswith("bias")
        }
    for path, expected in gradients["float32"].items():
        assert np.abs(expected).max() > 65504, path
        np.testing.assert_allclose(gradients["mixed_float16"][path], expected, rtol=0.02)


def test_variable_paths_are_unique(tiny_model):
    paths = [v.path for v in tiny_model.weights]
    assert len(set(paths)) == len(paths)


SECTIONS = {
    "features": {
        "sample_rate_hz": 8000,
        "frame_length_ms": 30.0,
        "frame_step_ms": 15.0,
        "fft_length": 256,
        "num_mel_bins": 40,
        "min_hz": 50.0,
        "max_hz": 3500.0,
        "preemphasis": 0.9,
        "top_db": 70.0,
        "extractor": "nemo",
        "normalization": "per_bin",
        "loud_frames_db": 30.0,
        "start_offset_db": 20.0,
        "start_deviation_db": 10.0,
        "start_frames": 5.0,
        "remove_dc_offset": True,
    },
    "spec_augment": {
        "num_time_masks": 3,
        "max_time_mask_frames": 20,
        "max_time_mask_share": 0.1,
        "num_frequency_masks": 4,
        "max_frequency_mask_bins": 5,
    },
    "model": {
        "num_layers": 3,
        "hidden_dim": 12,
        "num_heads": 2,
        "kernel_size": 5,
        "feedforward_multiplier": 3,
        "subsampling_filters": 7,
        "dropout_rate": 0.3,
        "prediction_dim": 9,
        "joint_dim": 11,
        "ctc_weight": 0.2,
        "feedforward_dim": 31,
        "subsampling_factor": 8,
        "subsampling": "dw_striding",
        "scale_input": True,
        "attention_bias": "all",
        "feedforward_bias": False,
        "convolution_bias": False,
        "convolution_norm": "layer",
        "convolution_norm_epsilon": 1e-4,
        "prediction_layers": 2,
        "prediction_norm": False,
        "joint_activation": "relu",
        "joint_prediction_bias": True,
        "durations": (0, 1, 3),
    },
}


def configured_sizes():
    names = "num_layers hidden_dim num_heads kernel_size subsampling_filters".split()
    return {f"model.{name}": SECTIONS["model"][name] for name in names}


def configured(**model):
    sections = {**SECTIONS, "model": {**SECTIONS["model"], **model}}
    overrides = {f"{name}.{k}": v for name, keys in sections.items() for k, v in keys.items()}
    return conformer.load_config(None, overrides)


def test_every_key_of_the_configuration_reaches_its_layer():
    """All sizes differ, so that a test fails if one is used in place of another."""
    config = configured()
    for name, keys in SECTIONS.items():
        sizes = {"transducer": True} if name == "model" else {}  # false: a test of its own
        assert dataclasses.asdict(getattr(config, name)) == {**keys, **sizes}, "all keys are set"
        default = dataclasses.asdict(getattr(conformer.load_config(), name))
        assert all(default[key] != value for key, value in keys.items())
    model = conformer.build_model(config, 13, precision="mixed_bfloat16")
    assert model.features.get_config().items() >= SECTIONS["features"].items()
    assert model.augment.get_config().items() >= SECTIONS["spec_augment"].items()
    expected = {k: v for k, v in SECTIONS["model"].items() if k in model.encoder.get_config()}
    assert len(expected) == 14
    assert model.encoder.get_config().items() >= expected.items()
    assert model.encoder.depthwise_subsampling
    shapes = {v.path.split("/", 1)[1]: tuple(v.shape) for v in model.weights}
    for path, shape in {
        "encoder/subsampling/convolution_0/kernel": (3, 3, 1, 7),
        "encoder/subsampling/depthwise_1/kernel": (3, 3, 7, 1),
        "encoder/subsampling/pointwise_2/kernel": (1, 1, 7, 7),
        "encoder/subsampling/projection/kernel": (5 * 7, 12),
        "encoder/block_2/feedforward_0/expansion/kernel": (12, 31),
        "encoder/block_2/feedforward_1/projection/kernel": (31, 12),
        "encoder/block_2/attention/query_key_value/bias": (36,),
        "encoder/block_2/convolution/normalization/gamma": (12,),
        "encoder/block_2/attention/content_bias": (2, 6),
        "encoder/block_2/convolution/depthwise/kernel": (5, 1, 12, 1),
        "prediction/embedding/embeddings": (13, 9),
        "prediction/lstm/lstm_cell/recurrent_kernel": (9, 36),
        "joint/encoded_projection/kernel": (12, 11),
        "joint/predicted_projection/kernel": (9, 11),
        "prediction/lstm_1/lstm_cell/kernel": (9, 36),
        "joint/predicted_projection/bias": (11,),
        "joint/vocabulary_projection/kernel": (11, 13 + 3),
        "ctc_head/kernel": (12, 13),
    }.items():
        assert shapes[path] == shape, path
    absent = ("block_3", "moving_mean", "feedforward_0/projection/bias", "depthwise/bias", "/norm/")
    assert not any(name in path for path in shapes for name in absent)
    for layer, dtype in (
        (model.encoder, "bfloat16"),
        (model.encoder.subsampling, "bfloat16"),
        (model.encoder.blocks[2], "bfloat16"),
        (model.encoder.blocks[2].feedforwards[1], "bfloat16"),
        (model.encoder.blocks[2].attention, "bfloat16"),
        (model.encoder.blocks[2].convolution, "bfloat16"),
        (model.prediction, "bfloat16"),
        (model.prediction.lstms[1], "bfloat16"),
        (model.joint, "bfloat16"),
        (model.joint.vocabulary_projection, "float32"),
        (model.ctc_head, "float32"),
        (model.features, "float32"),
        (model.augment, "float32"),
    ):
        assert layer.compute_dtype == dtype, layer.name
    defaults = {"subsampling_filters": None, "feedforward_dim": None, "ctc_weight": 0.0}
    plain = conformer.build_model(configured(**defaults), 13)
    assert plain.encoder.subsampling.filters == 12
    assert plain.encoder.feedforward_dim == 3 * 12
    assert plain.ctc_head is None


def test_a_model_without_a_transducer_has_a_ctc_head_only():
    overrides = {"model.transducer": False, "model.ctc_weight": 1.0, "decoding.head": "ctc"}
    config = conformer.load_config(None, {**configured_sizes(), **overrides})
    model = conformer.build_model(config, 13)
    assert model.prediction is model.joint is None
    assert model.vocabulary_size == 13
    assert {v.path.split("/")[1] for v in model.weights} == {"encoder", "ctc_head"}


def test_a_layer_is_made_again_from_its_configuration():
    model = conformer.build_model(configured(), 13)
    encoder = model.encoder
    block = encoder.blocks[0]
    batch_norm = BatchNormalization(momentum=0.7, epsilon=0.1)
    for layer in (
        model.features,
        model.augment,
        encoder,
        encoder.subsampling,
        block,
        block.attention,
        block.convolution,
        block.feedforwards[0],
        batch_norm,
        model.prediction,
        model.joint,
    ):
        again = type(layer).from_config(layer.get_config())
        arguments = [
            name
            for name in inspect.signature(type(layer).__init__).parameters
            if name not in ("self", "kwargs")
        ]
        assert arguments
        for name in arguments:
            assert getattr(again, name) == getattr(layer, name), (layer.name, name)
        assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "model",
    [
        {"hidden_dim": 13, "num_heads": 13},
        {"hidden_dim": 12, "num_heads": 5},
        {"num_layers": 0},
        {"kernel_size": 0},
        {"dropout_rate": 1.0},
        {"dropout_rate": -0.1},
        {"joint_dim": 0},
        {"prediction_dim": 0},
        {"feedforward_multiplier": 0},
        {"subsampling_filters": 0},
        {"subsampling_factor": 2},
        {"durations": (0, 2, 1)},
        {"durations": (0,)},
        {"durations": (1, 1)},
        {"transducer": False},
        {"transducer": False, "durations": (), "ctc_weight": 0.5},
    ],
    ids=str,
)
def test_sizes_that_make_no_model_are_refused(model):
    with refused("model"):
        configured(**model)


def test_the_smallest_sizes_make_a_model(inputs):
    smallest = dict.fromkeys(
        ("num_layers", "num_heads", "kernel_size", "feedforward_multiplier", "joint_dim"), 1
    )
    config = configured(
        **smallest, hidden_dim=2, subsampling_filters=1, prediction_dim=1, dropout_rate=0.0
    )
    logits, _ = conformer.build_model(config, 13)(*inputs, training=True)
    assert np.all(np.isfinite(logits))


def test_frames_that_leave_gaps_or_do_not_fit_the_transform_are_refused():
    for options in ({"frame_step_ms": 30.0}, {"fft_length": 399}):
        with pytest.raises(ValueError, match="frame_step <= frame_length <= fft_length"):
            LogMelSpectrogram(**options)
    LogMelSpectrogram(frame_step_ms=25.0, fft_length=400)
