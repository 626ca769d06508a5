"""Tests checkpoints of the PyTorch implementations: names, both directions, errors."""

import logging

import numpy as np
import pytest

import vision
from tests.support.errors import refused
from tools.weights.files import read_weights
from tools.weights.pth import Placeholder


@pytest.fixture(scope="module")
def source(build_small):
    """Returns a model in which all numbers differ."""
    rng = np.random.default_rng(5)
    model = build_small()
    for variable in model.weights:
        variable.assign(rng.standard_normal(variable.shape))
    return model


@pytest.fixture(scope="module")
def official(source):
    """Returns the tensors of that model."""
    return vision.pytorch_state_dict(source)


@pytest.fixture(scope="module")
def whatever(build_small):
    """Returns a model of the same sizes; tests must not rely on its weights."""
    return build_small(seed=2)


@pytest.fixture
def emptied(whatever):
    """Returns that model with other weights."""
    for variable in whatever.weights:
        variable.assign(np.full(variable.shape, -1.0))
    return whatever


def equal(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def test_names_and_shapes_are_the_originals(tiny):
    tensors = vision.pytorch_state_dict(tiny)
    assert len(tensors) == 718
    assert sum(x.endswith("num_batches_tracked") for x in tensors) == 85
    shapes = {
        "cls_token": (1, 1, 384),
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "trans_patch_conv.weight": (384, 64, 4, 4),
        "conv_1.residual_conv.weight": (64, 64, 1, 1),
        "trans_1.attn.qkv.weight": (1152, 384),
        "conv_trans_5.cnn_block.residual_bn.bias": (128,),
        "conv_trans_7.squeeze_block.conv_project.weight": (384, 32, 1, 1),
        "conv_trans_7.squeeze_block.ln.weight": (384,),
        "conv_trans_7.expand_block.conv_project.weight": (32, 384, 1, 1),
        "conv_trans_7.expand_block.bn.running_mean": (32,),
        "conv_trans_9.trans_block.mlp.fc2.weight": (384, 1536),
        "conv_trans_12.fusion_block.conv2.weight": (64, 64, 3, 3),
        "trans_norm.bias": (384,),
        "conv_cls_head.weight": (1000, 256),
        "trans_cls_head.weight": (1000, 384),
    }
    assert {name: tensors[name].shape for name in shapes} == shapes
    residual = {x.split(".residual")[0] for x in tensors if "residual" in x}
    blocks = {f"conv_trans_{x}" for x in ("5.cnn_block", "9.cnn_block", "12.fusion_block")}
    assert residual == blocks | {"conv_1"}


def test_round_trip_of_every_name(tiny):
    target = vision.build_model("conformer_tiny")
    official = vision.pytorch_state_dict(tiny)
    mmpretrain = vision.pytorch_state_dict(tiny, "mmpretrain")
    assert len(official) == len(mmpretrain) == 718
    assert "backbone.conv_trans_2.trans_block.ffn.layers.0.0.weight" in mmpretrain
    assert "backbone.trans_1.ln2.bias" in mmpretrain
    assert "head.trans_cls_head.bias" in mmpretrain
    report = vision.load_pytorch_weights(target, mmpretrain)
    assert len(report.assigned) == len(target.weights)
    assert len(report.ignored) == 85
    assert not report.kept
    equal(vision.pytorch_state_dict(target), official)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: {"model": x, "epoch": 3},
        lambda x: {"state_dict": x, "meta": {}},
        lambda x: {f"module.{name}": value for name, value in x.items()},
        lambda x: {"model": {f"module.{name}": value for name, value in x.items()}},
        lambda x: {"state_dict": {f"model._orig_mod.{name}": value for name, value in x.items()}},
        lambda x: {"net": x, "best": Placeholder()},
        lambda x: {"state_dict_ema": {f"module.{name}": value for name, value in x.items()}},
    ],
)
def test_wrappers(emptied, official, wrap):
    vision.load_pytorch_weights(emptied, wrap(official))
    equal(vision.pytorch_state_dict(emptied), official)


def test_averaged_weights_where_they_are_asked_for(emptied, official, caplog):
    """A message names the loaded weights if there is a choice, or only averaged ones."""
    average = {name: value + 1 for name, value in official.items()}
    both = {"model": official, "model_ema": {"module": average}}
    for use_ema, wanted, said in (
        (None, official, "--use_ema loads the average"),
        (False, official, "--use_ema loads the average"),
        (True, average, "averaged weights (EMA); --nouse_ema loads the others"),
    ):
        caplog.clear()
        vision.load_pytorch_weights(emptied, both, use_ema)
        found = vision.pytorch_state_dict(emptied)
        np.testing.assert_allclose(found["trans_norm.bias"], wanted["trans_norm.bias"])
        assert said in caplog.text
    caplog.clear()
    vision.load_pytorch_weights(emptied, {"model_ema": average})
    assert "the file has no others" in caplog.text
    caplog.clear()
    vision.load_pytorch_weights(emptied, official)
    assert "loading the" not in caplog.text


@pytest.mark.parametrize("naming", ["official", "mmpretrain"])
def test_file_round_trip(source, emptied, official, naming, tmp_path):
    path = tmp_path / "deeper" / "weights.safetensors"
    vision.save_pytorch_weights(source, path, naming)
    assert len(read_weights(path)) == len(official)
    vision.load_pytorch_weights(emptied, path)
    equal(vision.pytorch_state_dict(emptied), official)


def test_heads_of_other_classes_are_left_and_told(build_small, official, caplog):
    model = build_small(num_classes=7)
    before = vision.pytorch_state_dict(model)
    with caplog.at_level(logging.INFO):
        report = vision.load_pytorch_weights(model, official)
    heads = ("convolution_head", "transformer_head")
    assert [x.split("/")[1] for x in report.kept] == [x for x in heads for _ in range(2)]
    assert "convolution_head/kernel" in caplog.text
    for name, value in vision.pytorch_state_dict(model).items():
        wanted = before if "cls_head" in name else official
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)


def refusal(model, source):
    before = vision.pytorch_state_dict(model)
    with refused() as caught:
        vision.load_pytorch_weights(model, source)
    equal(vision.pytorch_state_dict(model), before)
    return str(caught.value)


def test_other_architectures_are_refused(build_small, official):
    told = refusal(build_small(num_layers=6), official)
    assert "missing: conv_trans_4.cnn_block.bn1.bias, " in told
    assert " more; unexpected: conv_trans_2.cnn_block.residual_bn.bias, " in told
    told = refusal(build_small(hidden_dim=64, num_heads=4), official)
    assert "another shape: cls_token [1, 1, 32] for [1, 1, 64]" in told


def test_strict_both_ways(emptied, official):
    model = emptied
    shorter = {k: v for k, v in official.items() if k != "trans_norm.bias"}
    assert "missing: trans_norm.bias." in refusal(model, shorter)
    longer = official | {"med_block.weight": np.zeros(3)}
    assert "unexpected: med_block.weight." in refusal(model, longer)
    flat = official | {"conv1.weight": np.zeros(64 * 3 * 7 * 7)}
    assert "conv1.weight [9408] for [64, 3, 7, 7]" in refusal(model, flat)
    twice = {f"backbone.{k}": v for k, v in official.items()} | {"head.cls_token": np.zeros(3)}
    assert "unexpected: head.cls_token." in refusal(model, twice)


@pytest.mark.parametrize("content", [{}, {"model": 3}, {"epoch": 1, "state": "x"}])
def test_other_content_is_refused(whatever, content):
    assert "Expected tensors by name" in refusal(whatever, content)


def test_other_naming_is_refused(whatever):
    with refused("Received: timm"):
        vision.pytorch_state_dict(whatever, "timm")
