"""Tests the model: sizes, outputs of transformers, padding, gradients, precision, errors."""

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

import wav2vec2
from tests.golden import make_wav2vec2 as golden
from tests.support.errors import refused
from tools.conversion.signature import to_onnx

# Parameters of Wav2Vec2ForCTC with 32 symbols in transformers.
SIZES = {"base": 94_396_320, "large": 315_461_792, "large-lv60": 315_471_520}


def build_golden(kind, build_small, **options):
    model = build_small(kind, **options)
    renamed = {"weight_g": "original0", "weight_v": "original1"}
    tensors = {}
    for name, value in wav2vec2.pytorch_state_dict(model).items():
        for old, new in renamed.items():
            name = name.replace(f".{old}", f".parametrizations.weight.{new}")
        tensors[name] = golden.weight(name, value.shape)
    wav2vec2.load_pytorch_weights(model, tensors)
    return model


@pytest.fixture(scope="module")
def arrays(project):
    with np.load(project / "tests/golden/wav2vec2.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("architecture", SIZES)
def test_architecture(architecture):
    # Variables without values, because large models would take gigabytes.
    with keras.StatelessScope(initialize_variables=False):
        model = wav2vec2.build_model(architecture)
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    assert sum(int(np.prod(shape)) for shape in shapes) == SIZES[architecture]
    assert len({v.path for v in model.weights}) == len(model.weights) == len(shapes)


def test_equals_transformers(kind, arrays, build_small):
    model = build_golden(kind, build_small)
    for index, length in enumerate(golden.LENGTHS):
        waveform = golden.waveforms()[index : index + 1, :length]
        found = {
            "features": model.feature_encoder(waveform),
            "encoded": model.encode(waveform),
            "logits": model(waveform),
        }
        for name, value in found.items():
            wanted = arrays[f"{kind}/{name}_{index}"]
            np.testing.assert_allclose(value[0], wanted, atol=1e-4, err_msg=name)


def test_a_padded_batch_equals_single_utterances(kind, arrays, build_small):
    model, waveforms = build_golden(kind, build_small), golden.waveforms()
    for garbage in (1e4, np.nan):
        waveforms[1, golden.LENGTHS[1] :] = garbage
        logits = model(waveforms, np.array(golden.LENGTHS))
        lengths = model.logit_lengths(golden.LENGTHS).numpy()
        assert lengths.tolist() == [len(arrays[f"{kind}/logits_{i}"]) for i in range(2)]
        for index, length in enumerate(lengths):
            wanted = arrays[f"{kind}/logits_{index}"]
            np.testing.assert_allclose(logits[index, :length], wanted, atol=1e-4)


def test_unmasked_padding_is_taken_for_sound(kind, arrays, build_small):
    model = build_golden(kind, build_small, mask_padding=False)
    logits = model(golden.waveforms(), np.array(golden.LENGTHS))
    wanted = arrays[f"{kind}/unmasked_logits"]
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    alone = arrays[f"{kind}/logits_1"]
    assert np.abs(wanted[1, : len(alone)] - alone).max() > 1e-2


def test_one_graph_for_all_shapes(kind, build_small, rng):
    model = build_small(kind)
    graph = tf.function(
        lambda waveforms, lengths: model(waveforms, lengths),
        input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int32)],
    )
    for batch_size, samples in ((1, 400), (3, 2000)):
        waveforms = rng.standard_normal((batch_size, samples)).astype("float32")
        lengths = np.linspace(400, samples, batch_size).astype("int32")
        np.testing.assert_allclose(graph(waveforms, lengths), model(waveforms, lengths), atol=1e-5)


def test_onnx_computes_the_same(kind, build_small, rng):
    model = build_small(kind, num_layers=1)
    for variable in model.weights:
        variable.assign(variable + 0.1 * rng.standard_normal(variable.shape))
    specs = {"waveforms": ([None, None], "float32"), "lengths": ([None], "int32")}
    graph = tf.function(
        lambda waveforms, lengths: {"logits": model(waveforms, lengths)},
        input_signature=[tf.TensorSpec(*spec, name) for name, spec in specs.items()],
    )
    onnx_model = to_onnx(graph.get_concrete_function(), "serving_default")
    session = onnxruntime.InferenceSession(onnx_model.SerializeToString())
    waveforms = rng.standard_normal((2, 4000)).astype("float32")
    lengths = np.array([4000, 3000], "int32")
    (logits,) = session.run(["logits"], {"waveforms": waveforms, "lengths": lengths})
    np.testing.assert_allclose(logits, model(waveforms, lengths), atol=1e-4)


def test_an_utterance_shorter_than_a_frame_harms_nobody(kind, build_small, rng):
    model = build_small(kind)
    waveforms = rng.standard_normal((2, 2000)).astype("float32")
    logits = np.asarray(model(waveforms, np.array([2000, 399])))
    assert np.all(np.isfinite(logits))
    np.testing.assert_allclose(logits[0], model(waveforms[:1])[0], atol=1e-4)


def test_every_trainable_variable_has_a_gradient(kind, build_small, rng):
    model = build_small(kind, feature_mask_rate=0.1, feature_mask_channels=4)
    waveforms = rng.standard_normal((2, 12000)).astype("float32")
    uniforms = rng.uniform(size=(2, model.num_uniforms(12000))).astype("float32")
    variables = model.trainable_variables
    found = [False] * len(variables)

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            logits = model(waveforms, np.array([12000, 9000]), uniforms, training=True)
            loss = tf.reduce_sum(tf.sin(logits))
        return tape.gradient(loss, [v.value for v in variables])

    # A layer that LayerDrop skips has zero gradients.
    for _ in range(4):
        for index, gradient in enumerate(gradients()):
            assert gradient is not None, variables[index].path
            assert np.all(np.isfinite(gradient)), variables[index].path
            found[index] |= bool(np.any(gradient))
    still = {v.path for v, moved in zip(variables, found, strict=True) if not moved}
    # Softmax is invariant to a constant that is added to all scores of a query.
    assert all(path.endswith("key/bias") for path in still)


def test_masks_are_those_of_training(build_small, rng):
    rates = [x for x in wav2vec2.config.ModelConfig.__dataclass_fields__ if x.endswith("drop_rate")]
    rates += [x for x in wav2vec2.config.ModelConfig.__dataclass_fields__ if "dropout" in x]
    model = build_small(**dict.fromkeys(rates, 0.0))
    waveforms = rng.standard_normal((2, 12000)).astype("float32")
    uniforms = rng.uniform(size=(2, model.num_uniforms(12000))).astype("float32")
    lengths = np.array([12000, 9000])
    plain = model(waveforms, lengths)
    np.testing.assert_array_equal(plain, model(waveforms, lengths, uniforms))
    # Layer norm computes differently in training, so the results differ by rounding.
    np.testing.assert_allclose(plain, model(waveforms, lengths, training=True), atol=1e-6)
    assert not np.allclose(plain, model(waveforms, lengths, uniforms, training=True), atol=1e-3)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("mixed_float16", 0.02), ("mixed_bfloat16", 0.2)]
)
def test_precision(kind, precision, tolerance, build_small, rng):
    waveforms = rng.standard_normal((2, 4000)).astype("float32")
    waveforms[1, 3000:] = 1e4
    lengths = np.array([4000, 3000])
    model = build_small(kind, precision=precision)
    logits = model(waveforms, lengths)
    assert logits.dtype == "float32"
    assert model.encode(waveforms, lengths).dtype == precision.removeprefix("mixed_")
    assert {v.dtype for v in model.weights} == {"float32"}
    wanted = build_small(kind)(waveforms, lengths)
    for row, reference, length in zip(logits, wanted, (12, 9), strict=True):
        difference = np.abs(np.asarray(row)[:length] - np.asarray(reference)[:length])
        assert difference.max() < tolerance * np.abs(wanted).max()


RATES = [
    f"{name}_rate"
    for name in "feature_dropout dropout attention_dropout activation_dropout head_dropout "
    "layer_drop".split()
]


@pytest.mark.parametrize("name", RATES)
def test_every_dropout_acts_in_training_and_only_there(name, build_small, rng):
    still = dict.fromkeys(RATES, 0.0)
    model, plain = build_small(**still | {name: 0.5}), build_small(**still)
    plain.set_weights(model.get_weights())
    waveforms = rng.standard_normal((2, 1200)).astype("float32")
    wanted = np.asarray(plain(waveforms))
    np.testing.assert_array_equal(model(waveforms), wanted)
    np.testing.assert_allclose(plain(waveforms, training=True), wanted, atol=1e-6)
    # LayerDrop can keep all layers for a batch.
    found = [np.asarray(model(waveforms, training=True)) for _ in range(5)]
    assert any(not np.allclose(x, wanted, atol=1e-4) for x in found)


def test_head_dropout_is_between_the_encoder_and_the_head(build_small, rng):
    model = build_small(**dict.fromkeys(RATES, 0.0) | {"head_dropout_rate": 0.75})
    model.head.kernel.assign(np.eye(32, 12))
    waveforms = rng.standard_normal((2, 12000)).astype("float32")
    encoded = np.asarray(model.encode(waveforms))
    np.testing.assert_allclose(model.encode(waveforms, training=True), encoded, atol=1e-6)
    logits = np.asarray(model(waveforms, training=True))
    kept = logits != 0
    np.testing.assert_allclose(logits, np.where(kept, 4 * encoded[:, :, :12], 0), atol=1e-5)
    assert kept.mean() == pytest.approx(0.25, abs=0.05)


def test_every_size_and_rate_reaches_the_layer_it_is_meant_for():
    config = wav2vec2.config.model_config(
        feature_norm="layer",
        feature_bias=True,
        feature_filters=(8, 12),
        feature_kernel_sizes=(10, 4),
        feature_strides=(5, 3),
        num_layers=2,
        hidden_dim=24,
        num_heads=4,
        feedforward_dim=40,
        pre_norm=True,
        position_kernel_size=6,
        position_groups=3,
        layer_norm_epsilon=0.01,
        vocabulary_size=7,
        **{name: (index + 1) / 100 for index, name in enumerate(RATES)},
        time_mask_rate=0.11,
        time_mask_frames=5,
        min_time_masks=1,
        feature_mask_rate=0.12,
        feature_mask_channels=9,
        min_feature_masks=3,
    )
    model = wav2vec2.build_model(config)
    rates = {"dropout_rate": 0.02, "attention_dropout_rate": 0.03, "activation_dropout_rate": 0.04}
    block = {"num_heads": 4, "feedforward_dim": 40, "pre_norm": True, "epsilon": 0.01, **rates}
    masks = {"time_rate": 0.11, "time_span": 5, "min_time_masks": 1}
    masks |= {"feature_rate": 0.12, "feature_span": 9, "min_feature_masks": 3}
    wanted = {
        "feature_encoder": (
            {"norm": "layer", "filters": (8, 12), "kernel_sizes": (10, 4), "strides": (5, 3)}
            | {"use_bias": True}
        ),
        "feature_projection": {"hidden_dim": 24, "epsilon": 0.01, "dropout_rate": 0.01},
        "masking": masks,
        "encoder": block
        | {"num_layers": 2, "position_kernel_size": 6, "position_groups": 3}
        | {"layer_drop_rate": 0.06},
    }
    for name, arguments in wanted.items():
        found = getattr(model, name).get_config()
        assert {key: found[key] for key in arguments} == arguments, name
    for layer in model.encoder.blocks:
        found = layer.get_config()
        assert {key: found[key] for key in block} == block
        assert layer.attention.get_config()["dropout_rate"] == 0.03
    assert model.head_dropout.rate == 0.05
    assert model.head.units == 7


def test_config_rebuilds_the_model(build_small, rng):
    model = build_small("layer", mask_padding=False)
    again = type(model).from_config(model.get_config())
    again.build()
    assert again.config == model.config
    again.set_weights(model.get_weights())
    waveforms = rng.standard_normal((1, 800)).astype("float32")
    np.testing.assert_array_equal(again(waveforms), model(waveforms))


def test_the_feature_encoder_can_be_frozen(build_small):
    model = build_small()
    everything = len(model.trainable_variables)
    model.feature_encoder.trainable = False
    assert everything - len(model.trainable_variables) == 3 + 6


@pytest.mark.parametrize("shape", [(2, 399), (400,), (1, 400, 1)])
def test_refused_waveforms(shape, build_small):
    model = build_small()
    for call in (model, model.encode):
        with refused("at least 400 samples"):
            call(np.zeros(shape, "float32"))


def test_refused_architecture():
    with refused("Received: tiny"):
        wav2vec2.build_model("tiny")
