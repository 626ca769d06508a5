"""Tests the model: sizes, epsilons, shapes, gradients, precision, outputs of the original."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import vision
from tests.golden import make_vision_conformer as golden
from tests.support.errors import refused
from vision.convolution import ConvolutionBlock

# Trainable parameters with 1000 classes.
SIZES = {
    "conformer_tiny_patch16": 23_524_704,
    "conformer_small_patch16": 37_673_424,
    "conformer_small_patch32": 38_853_072,
    "conformer_base_patch16": 83_289_136,
}


def layers_of(model, kind):
    return [x for x in model._flatten_layers() if isinstance(x, kind)]


def count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


@pytest.mark.parametrize("architecture", SIZES)
def test_architecture(architecture):
    with keras.StatelessScope(initialize_variables=False):  # shapes only, without initial values
        model = vision.build_model(architecture)
    assert count(model.trainable_variables) == SIZES[architecture]
    assert len(model.trainable_variables) == 463
    assert len({v.path for v in model.weights}) == len(model.weights) == 463 + 2 * 85
    for kind, number, odd_one in (
        (keras.layers.BatchNormalization, 85, model.stem.normalization),
        (keras.layers.LayerNormalization, 36, model.final_norm),
    ):
        layers = layers_of(model, kind)
        assert len(layers) == number
        assert {x: x.epsilon for x in layers} == dict.fromkeys(layers, 1e-6) | {odd_one: 1e-5}
    assert {x.momentum for x in layers_of(model, keras.layers.BatchNormalization)} == {0.9}
    widths = [x.filters for x in model.coupled_blocks]
    ratio = model.channel_ratio
    assert widths == [64 * ratio] * 3 + [128 * ratio] * 4 + [256 * ratio] * 4


def test_short_names_and_classes():
    with keras.StatelessScope(initialize_variables=False):
        model = vision.build_model("conformer_tiny", num_classes=196)
    assert count(model.trainable_variables) == 23_008_536
    assert model.patch_size == 16


@pytest.mark.parametrize(("patch_size", "tokens"), [(16, 197), (32, 50)])
def test_shapes(build_small, patch_size, tokens):
    model = build_small(patch_size=patch_size, num_layers=6)
    shapes = []
    for block in model.coupled_blocks:
        call = block.convolution.call

        def record(*args, call=call, **kwargs):
            outputs = call(*args, **kwargs)
            shapes.append(outputs[0].shape[1:3])
            return outputs

        block.convolution.call = record
    feature_map, encoded = model.encode(np.zeros((1, 224, 224, 3), "float32"))
    assert shapes == [(56, 56), (28, 28), (28, 28), (14, 14), (14, 14)]
    assert feature_map.shape == (1, 7, 7, 64)
    assert encoded.shape == (1, tokens, 32)


@pytest.mark.parametrize("variant", golden.VARIANTS)
def test_equals_the_original(variant, project):
    with np.load(project / "tests/golden/vision_conformer.npz") as file:
        arrays = {k.split("/")[1]: file[k] for k in file.files if k.startswith(variant)}
    model = vision.build_model(golden.VARIANTS[variant], golden.NUM_CLASSES)
    tensors = vision.pytorch_state_dict(model)
    for name, value in tensors.items():
        tensors[name] = arrays[name] if ".running_" in name else golden.weight(name, value.shape)
    vision.load_pytorch_weights(model, tensors)
    kept = {}

    def keep(layer, depth):
        call = layer.call

        def record(*args, **kwargs):
            outputs = call(*args, **kwargs)
            for name, x in zip(("map", "tokens"), tf.nest.flatten(outputs), strict=False):
                kept[f"{depth}_{name}"] = x
            return outputs

        layer.call = record

    keep(model.stem_pooling, "stem")
    keep(model.coupled_blocks[1], "layer_3")
    keep(model.coupled_blocks[4], "layer_6")
    kept["convolution_logits"], kept["transformer_logits"] = model(golden.images())
    assert len(kept) == 7
    for name, value in kept.items():
        value = value[..., golden.KEPT_CHANNELS] if name.endswith("map") else value
        scale = np.abs(arrays[name]).max()
        np.testing.assert_allclose(value, arrays[name], atol=1e-4 * scale, err_msg=name)


def test_every_trainable_variable_has_a_gradient(build_small, images):
    model = build_small(num_layers=6)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        convolution, transformer = model(images, training=True)
        loss = tf.reduce_sum(tf.sin(convolution)) + tf.reduce_sum(tf.sin(transformer))
    for variable, gradient in zip(
        variables, tape.gradient(loss, [v.value for v in variables]), strict=True
    ):
        assert gradient is not None, variable.path
        assert np.all(np.isfinite(gradient)), variable.path
        assert np.any(gradient), variable.path


def test_training_moves_the_statistics(small_model, images):
    before = [np.array(v) for v in small_model.non_trainable_variables]
    small_model(images, training=True)
    for old, new in zip(before, small_model.non_trainable_variables, strict=True):
        assert np.any(old != np.asarray(new)), new.path


def test_drop_path_rises_over_the_transformer_blocks(tiny):
    blocks = [tiny.first_transformer, *(x.transformer for x in tiny.coupled_blocks)]
    rates = [block.drop_path.rate for block in blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 12))
    assert {x.drop_path.rate for x in layers_of(tiny, ConvolutionBlock)} == {0.0}


def test_switches_of_mmpretrain(build_small, images):
    model = build_small(drop_path_rate=0.5, fusion_drop_path=True, zero_init_last_batch_norm=True)
    rates = [x.fusion.drop_path.rate for x in model.coupled_blocks]
    np.testing.assert_allclose(rates, [0.25, 0.5])
    assert {x.convolution.drop_path.rate for x in model.coupled_blocks} == {0.0}
    for block in layers_of(model, ConvolutionBlock):
        assert not np.any(block.expand.normalization.gamma)
        assert np.all(np.asarray(block.spatial.normalization.gamma) == 1)
    # Stochastic depth drops or doubles each branch, so two passes differ.
    for variable in model.trainable_variables:
        if "expand/normalization" in variable.path:
            variable.assign(np.ones(variable.shape))
    first, second = (model(images, training=True)[0] for _ in range(2))
    assert np.any(np.asarray(first) != np.asarray(second))


@pytest.mark.parametrize("use_pytorch_maxpool", [True, False])
def test_the_pooling_of_the_stem(build_small, calibrated, images, use_pytorch_maxpool):
    """Windows of 3 with stride 2 that start one pixel before the map, or at its first pixel."""
    model = build_small(use_pytorch_maxpool=use_pytorch_maxpool)
    model.set_weights(calibrated.get_weights())
    seen, call = [], model.first_convolution.call
    model.first_convolution.call = lambda x, **options: seen.append(x) or call(x, **options)
    model(images)
    x = np.maximum(model.stem(images), 0)
    front = int(use_pytorch_maxpool)
    x = np.pad(x, ((0, 0), (front, 1 - front), (front, 1 - front), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_allclose(seen[0], windows.max((-1, -2)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 30, 32, 3), (1, 32, 33, 3), (1, 3, 32, 32), (32, 32, 3)])
def test_other_sizes_are_refused_in_one_line(calibrated, shape):
    for refuse in (calibrated, calibrated.encode):
        with refused(match=r"multiples of 16\. Received: "):
            refuse(np.zeros(shape, "float32"))


def test_other_sizes_are_padded(build_small, rng):
    model = build_small(pad_to_patch=True)
    dynamic = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 3))])
    for size, padded in (((30, 33), (32, 48)), ((1, 32), (16, 32))):
        images = rng.standard_normal((2, *size, 3)).astype("float32")
        _, tokens = model.encode(images)
        assert tokens.shape[1] == 1 + padded[0] * padded[1] // 256
        for actual, expected in zip(dynamic(images), model(images), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_padding_is_zeros_right_and_bottom(build_small, rng):
    """Returns the input of the first layer; the stem halves the image twice."""
    model, seen = build_small(pad_to_patch=True), []
    for layer in (model.patch_embedding, model.first_convolution):

        def note(x, *args, call=layer.call, **kwargs):
            seen.append(np.asarray(x))
            return call(x, *args, **kwargs)

        layer.call = note
    images = rng.standard_normal((2, 28, 36, 3)).astype("float32")
    model.encode(images)
    whole = model.stem_pooling(model.stem_padding(keras.ops.relu(model.stem(images))))
    assert whole.shape[1:3] == (7, 9)
    for found in seen:
        np.testing.assert_array_equal(found, np.pad(whole, ((0, 0), (0, 1), (0, 3), (0, 0))))
    assert len(seen) == 2


def test_padding_leaves_whole_patches_alone(build_small, calibrated, images):
    model = build_small(pad_to_patch=True)
    model.set_weights(calibrated.get_weights())
    for actual, reference in zip(model(images), calibrated(images), strict=True):
        np.testing.assert_array_equal(actual, reference)


def test_one_graph_takes_every_size(calibrated, rng):
    traced = tf.function(
        lambda x: calibrated(x, training=False),
        input_signature=[tf.TensorSpec((None, None, None, 3))],
    )
    for shape in ((1, 32, 48, 3), (2, 64, 16, 3)):
        images = rng.standard_normal(shape).astype("float32")
        for actual, expected in zip(traced(images), calibrated(images), strict=True):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, atol=1e-4 * scale)


def test_batch_equals_single(calibrated, images):
    together = calibrated(images)
    for row in range(3):
        for whole, alone in zip(together, calibrated(images[row : row + 1]), strict=True):
            scale = np.abs(whole).max()
            np.testing.assert_allclose(whole[row], alone[0], atol=1e-4 * scale)


@pytest.fixture(scope="module")
def in_float32(build_small, calibrated):
    """Returns images, weights, and logits of both heads in training and evaluation mode."""
    images = np.random.default_rng(6).standard_normal((8, 64, 64, 3)).astype("float32")
    weights, model = calibrated.get_weights(), build_small()
    model.set_weights(weights)
    return images, weights, {x: model(images, training=x) for x in (False, True)}


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)]
)
def test_mixed_precision_is_close_to_float32(build_small, in_float32, precision, tolerance):
    """The tolerance is a few rounding steps (2^-11, 2^-8), relative to the spread of logits."""
    images, weights, expected = in_float32
    model = build_small(precision=precision)
    model.set_weights(weights)
    feature_map, tokens = model.encode(images)
    assert feature_map.dtype.name == tokens.dtype.name == precision.removeprefix("mixed_")
    assert {v.dtype for v in model.weights} == {"float32"}
    for training in (False, True):
        for logits, whole in zip(model(images, training=training), expected[training], strict=True):
            assert logits.dtype == tf.float32
            error = np.std(logits - whole) / np.std(whole)
            assert 0 < error < tolerance


def test_initial_values_follow_the_original(tiny):
    spread = {v.path.split("/", 1)[1]: float(np.std(v)) for v in tiny.weights}
    assert spread["transformer_1/expansion/kernel"] == pytest.approx(0.02, rel=0.05)
    assert spread["transformer_head/kernel"] == pytest.approx(0.02, rel=0.05)
    assert spread["class_token"] == pytest.approx(0.02, rel=0.2)
    stem = (2 / (64 * 49)) ** 0.5
    assert spread["stem/convolution/kernel"] == pytest.approx(stem, rel=0.05)
    assert spread["coupled_2/down/projection/kernel"] == pytest.approx((2 / 384) ** 0.5, rel=0.05)
    embedding = (64 * 16) ** -0.5 / 3**0.5
    assert spread["patch_embedding/bias"] == pytest.approx(embedding, rel=0.2)
    twins = [np.array(x.transformer.expansion.kernel) for x in tiny.coupled_blocks[:2]]
    assert np.any(twins[0] != twins[1])


def test_keras_file_restores_the_model(small_model, images, tmp_path):
    small_model(images, training=True)
    small_model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    for actual, expected in zip(restored(images), small_model(images), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("conformer_huge", {}),
        ({"num_layers": 4}, {}),
        ({"patch_size": 8}, {}),
        ({"hidden_dim": 10, "num_heads": 3}, {}),
    ],
)
def test_impossible_models_are_refused(architecture, options):
    with refused(match=r"^Expected .* Received: .*"):
        vision.build_model(architecture, **options)
