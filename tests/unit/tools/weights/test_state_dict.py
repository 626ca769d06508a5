"""Weights are found in checkpoints of training programs, whatever those call them."""

from collections import OrderedDict

import numpy as np
import pytest

from tests.support.errors import refused
from tools.weights.pth import Placeholder
from tools.weights.state_dict import state_dict


class Network(Placeholder):
    """What stands for a pickled model."""

    name = "models.Network"


PLAIN, AVERAGE = {"a.weight": np.zeros(2), "b": np.zeros(())}, {"a.weight": np.ones(2)}


def names(content, **options):
    return sorted(state_dict(content, **options).tensors)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        {"model": OrderedDict(PLAIN), "epoch": 3, "step": np.zeros(())},
        {"state_dict": PLAIN, "optimizer": {"state": {0: np.zeros(2)}}},
        {"net": PLAIN, "acc": 0.7},
        {"model_state_dict": PLAIN, "loss": np.zeros(())},
        {"model": {"state_dict": PLAIN}},
        {"state_dict": {f"model.{name}": x for name, x in PLAIN.items()}, "callbacks": {}},
        {f"_orig_mod.{name}": x for name, x in PLAIN.items()},
        {"model": {f"module._orig_mod.{name}": x for name, x in PLAIN.items()}},
    ],
)
def test_weights_are_found(content):
    found = state_dict(content)
    assert found.tensors.keys() == PLAIN.keys() and not found.is_ema and not found.has_both
    assert found.tensors["a.weight"] is PLAIN["a.weight"]
    with refused("averaged weights (EMA)"):
        state_dict(content, use_ema=True)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema", "ema_state_dict"])
def test_averages_count_where_they_are_asked_for_or_alone(key):
    both = {"model": PLAIN, key: {f"module.{name}": x for name, x in AVERAGE.items()}}
    for use_ema, is_ema in ((None, False), (False, False), (True, True)):
        found = state_dict(both, use_ema)
        assert (found.is_ema, found.has_both) == (is_ema, True)
        assert found.tensors["a.weight"][0] == is_ema
    alone = {key: {"state_dict": AVERAGE}, "epoch": 1}
    for use_ema in (None, True):
        found = state_dict(alone, use_ema)
        assert (found.is_ema, found.has_both) == (True, False)
    with refused(match=r"weights other than EMA.*Leave --nouse_ema out\.$"):
        state_dict(alone, use_ema=False)


@pytest.mark.parametrize("counter", ["n_averaged", "steps"])
def test_what_averaged_models_count_is_none_of_the_weights(counter):
    """As torch.optim.swa_utils and mmengine write them."""
    average = {counter: np.zeros((), int)} | {f"module.{name}": x for name, x in AVERAGE.items()}
    found = state_dict({"state_dict": PLAIN, "ema_state_dict": average}, use_ema=True)
    assert found.tensors == AVERAGE
    assert names(average) == [*AVERAGE]
    assert names({counter: np.zeros(2), "a.weight": np.zeros(2)}) == ["a.weight", counter]
    assert names({counter: np.zeros(2)}) == [counter]


def test_a_part_of_the_names_keeps_its_prefix():
    assert names({"model.a": np.zeros(1), "b": np.zeros(1)}) == ["b", "model.a"]
    assert names({"module.model.a": np.zeros(1)}) == ["a"]


@pytest.mark.parametrize(
    ("content", "received"),
    [
        ({}, "nothing"),
        ([np.zeros(1)], "list"),
        (np.zeros(1), "ndarray"),
        ({"epoch": 1, "lr": 0.1, "a": "x", "b": 2}, "epoch, lr, a ..."),
        ({"model": {"a": np.zeros(1), "b": "x"}}, "other objects, such as b"),
        (Network(), "an object of models.Network"),
        ({"model": Network(), "epoch": 1}, "model (an object of models.Network), epoch."),
        ({"a": np.zeros(1), "b": Network()}, "such as b (an object of models.Network)"),
    ],
)
def test_content_without_weights_is_refused(content, received):
    with refused(received):
        state_dict(content)


def test_a_checkpoint_that_holds_itself_is_refused():
    content = {}
    content["model"] = content
    with refused("tensors by name"):
        state_dict(content)
