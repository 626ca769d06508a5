"""Tests the effect of each config key on the model, and checks of files of weights."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest

import vision
from tests.support.errors import refused
from tools.training.checkpoint import CheckpointStore
from vision.attention import MultiHeadAttention, TransformerBlock
from vision.blocks import CoupledBlock, CouplingDown, CouplingUp
from vision.checkpoint import build, initial_model, load_model, load_pretrained
from vision.config import ModelConfig
from vision.convolution import BatchNormalization, ConvolutionBlock, ConvolutionNorm
from vision.model import VisionConformer

RATE = 0.25


@pytest.fixture(scope="module")
def config(small_architecture):
    """Returns the config of a small model in which all keys except `arch` have neutral values."""
    return ModelConfig(arch=small_architecture, num_classes=5, drop_path=0.0)


def settings(model):
    """Returns the settings of a model's layers, measured by their effect on an image."""
    transformers = [model.first_transformer, *(x.transformer for x in model.coupled_blocks)]
    convolutions = [model.first_convolution]
    convolutions += [x for block in model.coupled_blocks for x in (block.convolution, block.fusion)]
    return {
        "classes": [h.units for h in (model.convolution_head, model.transformer_head)],
        "after the attention": [x.attention.dropout.rate for x in transformers],
        "in the feed-forward": [d.rate for x in transformers for d in x.dropouts],
        "on attention weights": [x.attention.attention_dropout.rate for x in transformers],
        "paths of transformers": [x.drop_path.rate for x in transformers],
        "paths of convolutions": [x.drop_path.rate for x in convolutions],
        "tanh in transformers": [x.approximate_gelu for x in transformers],
        "tanh in crossings": [x.down.approximate_gelu for x in model.coupled_blocks],
        "last scales": [float(np.max(x.expand.normalization.gamma)) for x in convolutions],
        "padding of the pool": model.stem_pooling.padding,
        "policy": model.stem.dtype_policy.name,
    }


NEUTRAL = {
    "classes": [5, 5],
    "after the attention": [0.0] * 3,
    "in the feed-forward": [0.0] * 6,
    "on attention weights": [0.0] * 3,
    "paths of transformers": [0.0] * 3,
    "paths of convolutions": [0.0] * 5,
    "tanh in transformers": [False] * 3,
    "tanh in crossings": [False] * 2,
    "last scales": [1.0] * 5,
    "padding of the pool": "valid",
    "policy": "float32",
}


CHANGES = [
    ({}, {}),
    ({"num_classes": 7}, {"classes": [7, 7]}),
    (
        {"drop": RATE},
        {"after the attention": [RATE] * 3, "in the feed-forward": [RATE] * 6},
    ),
    ({"drop_block": RATE}, {"on attention weights": [RATE] * 3}),
    ({"drop_path": RATE}, {"paths of transformers": [0.0, RATE / 2, RATE]}),
    (
        {"drop_path": RATE, "fusion_drop_path": True},
        {
            "paths of transformers": [0.0, RATE / 2, RATE],
            "paths of convolutions": [0.0, 0.0, RATE / 2, 0.0, RATE],
        },
    ),
    (
        {"disable_approximate_gelu": False},
        {"tanh in transformers": [True] * 3, "tanh in crossings": [True] * 2},
    ),
    ({"zero_init_last_batch_norm": True}, {"last scales": [0.0] * 5}),
    ({"use_pytorch_maxpool": False}, {"padding of the pool": "same"}),
]


@pytest.mark.parametrize(("changes", "expected"), CHANGES, ids=str)
def test_a_key_of_the_config_changes_its_layers_and_no_others(config, changes, expected):
    model = build(dataclasses.replace(config, **changes))
    assert settings(model) == NEUTRAL | expected


def test_every_key_of_the_model_is_tried():
    tried = {key for changes, _ in CHANGES for key in changes}
    assert tried | {"arch"} == {field.name for field in dataclasses.fields(ModelConfig)}


def test_precision_and_architecture_reach_the_layers(config, monkeypatch, small_architecture):
    assert settings(build(config, "mixed_bfloat16")) == NEUTRAL | {"policy": "mixed_bfloat16"}
    wide = vision.model.ARCHITECTURES[small_architecture] | {"hidden_dim": 64}
    monkeypatch.setitem(vision.model.ARCHITECTURES, "conformer_wide", wide)
    assert build(dataclasses.replace(config, arch="conformer_wide")).hidden_dim == 64


LAYERS = [
    (MultiHeadAttention, {"num_heads": 2, "dropout_rate": 0.1, "attention_dropout_rate": 0.2}),
    (
        TransformerBlock,
        {"num_heads": 2, "feedforward_dim": 8, "dropout_rate": 0.1, "attention_dropout_rate": 0.2}
        | {"drop_path_rate": 0.3, "approximate_gelu": True},
    ),
    (BatchNormalization, {"epsilon": 0.5, "zero_init": True}),
    (
        ConvolutionNorm,
        {"filters": 4, "kernel_size": 3, "strides": 2, "epsilon": 0.5, "zero_init": True},
    ),
    (
        ConvolutionBlock,
        {"filters": 4, "strides": 2, "project_residual": True, "drop_path_rate": 0.3}
        | {"zero_init_last_batch_norm": True},
    ),
    (CouplingDown, {"hidden_dim": 8, "pool_size": 2, "approximate_gelu": True}),
    (CouplingUp, {"filters": 4, "up_size": 2}),
    (
        CoupledBlock,
        {"filters": 4, "strides": 2, "pool_size": 2, "is_last": True, "fusion_drop_path_rate": 0.3}
        | {"transformer_arguments": {"num_heads": 2, "feedforward_dim": 8}}
        | {"zero_init_last_batch_norm": True},
    ),
    (
        VisionConformer,
        {"patch_size": 32, "channel_ratio": 2, "hidden_dim": 8, "num_heads": 2, "num_layers": 3}
        | {"feedforward_multiplier": 2, "num_classes": 4, "dropout_rate": 0.1}
        | {"attention_dropout_rate": 0.2, "drop_path_rate": 0.3, "fusion_drop_path": True}
        | {"zero_init_last_batch_norm": True, "approximate_gelu": True}
        | {"use_pytorch_maxpool": False, "pad_to_patch": True},
    ),
]


@pytest.mark.parametrize(("kind", "arguments"), LAYERS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_layer_gives_all_its_arguments_back(kind, arguments):
    parameters = inspect.signature(kind.__init__).parameters
    assert parameters.keys() - {"self", "kwargs"} == arguments.keys()
    for name, value in arguments.items():
        assert value != parameters[name].default, f"{name} would not be missed"
    again = kind.from_config(kind(**arguments, name="some").get_config())
    assert {name: getattr(again, name) for name in arguments} == arguments
    assert again.name == "some"


@pytest.fixture(scope="module")
def source(build_small):
    """A model of four classes."""
    return build_small(seed=3, num_classes=4)


@pytest.fixture(scope="module")
def keras_file(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "a.keras"
    source.save(path)
    return path


def test_only_the_weights_of_a_keras_file_start_a_training(build_small, source, keras_file):
    """The number of classes and the rates in the file are ignored."""
    target = build_small(seed=4, drop_path_rate=0.5)
    before = {x.path: np.array(x) for x in target.weights}
    _, told = load_pretrained(target, keras_file, [str(n) for n in range(10)])
    expected = {x.path: np.array(x) for x in source.weights}
    for variable in target.weights:
        is_head = "_head/" in variable.path
        wanted = (before if is_head else expected)[variable.path]
        np.testing.assert_array_equal(variable, wanted, err_msg=variable.path)
        assert (variable.path in told) == is_head
    assert target.num_classes == 10 and target.drop_path_rate == 0.5


def test_a_keras_file_of_other_classes_or_another_model_is_refused(config, keras_file, tmp_path):
    with refused("a vision Conformer with 5 classes"):
        load_model(config, keras_file)
    keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "b.keras")
    with refused("b.keras: Sequential"):
        load_model(config, tmp_path / "b.keras")


@pytest.mark.parametrize("use_ema", [False, True])
def test_a_keras_file_has_no_choice_of_weights(config, build_small, keras_file, use_ema):
    message = f"Received: {keras_file}, which has one set of weights. Leave use_ema out."
    with refused(message):
        load_model(dataclasses.replace(config, num_classes=4), keras_file, use_ema=use_ema)
    with refused(message):
        load_pretrained(build_small(), keras_file, [str(n) for n in range(10)], use_ema)


def test_the_seed_chooses_the_initial_weights(config, capsys):
    models = [initial_model(config, seed) for seed in (1, 1, 2)]
    tokens = [np.array(model.class_token) for model in models]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert np.any(tokens[0] != tokens[2])
    assert "seed 2" in capsys.readouterr().err


@pytest.mark.parametrize("folder", [False, True])
def test_a_run_gives_its_averaged_weights_and_the_best_of_them(config, tmp_path, folder):
    store = CheckpointStore(tmp_path, keep_last=3)
    trained, classes = build(config), list("abcde")
    assets = {"classes.txt": "".join(f"{number} {x}\n" for number, x in enumerate(classes))}
    for step, metric in ((1, 0.5), (2, 0.25), (3, 0.75)):
        values = {x.path: np.full(x.shape, float(step)) for x in trained.weights}
        averages = {path: x + 0.5 for path, x in values.items() if "kernel" in path}
        groups = {"model": values, "average": averages}
        saved = store.save({"step": step, "metric": metric}, groups, assets)
        if step == 2:
            best = saved.path
    source = tmp_path if folder else best
    model = build(config)
    load_pretrained(model, source, classes)
    for one in (model, load_model(config, source)):
        for variable in one.weights:
            wanted = 2.5 if "kernel" in variable.path else 2.0
            np.testing.assert_array_equal(variable, wanted, err_msg=variable.path)
