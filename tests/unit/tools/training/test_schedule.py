"""Learning rates against their closed forms."""

import itertools
import math

import pytest

from tests.support.errors import refused
from tools.config.loader import load
from tools.training.config import ScheduleConfig
from tools.training.schedule import learning_rate

NAMES = ["transformer", "cosine", "constant", "multistep", "exponential"]
TOTAL_STEPS, STEPS_PER_EPOCH = 100, 20


def rates(name, num_steps=TOTAL_STEPS, **arguments):
    config = ScheduleConfig(name=name, **{"peak": 0.5, "warmup_steps": 10, **arguments})
    config.validate()
    return [
        learning_rate(config, step, TOTAL_STEPS, STEPS_PER_EPOCH)
        for step in range(1, num_steps + 1)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_is_a_line_that_meets_the_rest(name):
    values = rates(name)
    assert values[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
    assert max(values) == values[9] == 0.5
    assert abs(values[10] - values[9]) < 0.05


@pytest.mark.parametrize("name", [*NAMES, "one_cycle"])
def test_warm_up_in_epochs_from_a_rate_of_its_own(name):
    values = rates(name, warmup_epochs=0.5, warmup_steps=3, warmup_initial=0.1)
    assert values == pytest.approx(rates(name, warmup_steps=10, warmup_initial=0.1))
    assert values[9] == 0.5
    if name == "one_cycle":
        assert values[4] == pytest.approx(0.3), "half-way of half a cosine"
        assert values[0] - 0.1 < 0.01
    else:
        assert values[:9] == pytest.approx([0.1 + 0.04 * step for step in range(1, 10)])


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("transformer", lambda step: 0.5 * math.sqrt(10 / step)),
        ("cosine", lambda step: 0.1 + 0.4 * (1 + math.cos(math.pi * (step - 10) / 90)) / 2),
        ("one_cycle", lambda step: 0.1 + 0.4 * (1 + math.cos(math.pi * (step - 10) / 90)) / 2),
        ("constant", lambda step: 0.5),
        ("exponential", lambda step: 0.5 * 0.8 ** ((step - 10) / 20)),
    ],
)
def test_closed_forms_after_warm_up(name, formula):
    values = rates(name, final=0.1, decay_rate=0.8)
    assert values[10:] == pytest.approx([formula(step) for step in range(11, TOTAL_STEPS + 1)])
    assert values[10:] == sorted(values[10:], reverse=True)


@pytest.mark.parametrize("by_epoch", [False, True])
def test_multistep_falls_at_whole_epochs_of_the_run(by_epoch):
    arguments = {"decay_rate": 0.1, "decay_epochs": 2, "by_epoch": by_epoch, "warmup_steps": 0}
    values = rates("multistep", **arguments)
    expected = [0.5] * 40 + [0.05] * 40 + [0.005] * 20
    assert values == pytest.approx(expected)
    assert rates("multistep", **arguments, final=0.04)[80:] == [0.04] * 20


def test_by_epoch_gives_all_steps_of_an_epoch_the_rate_of_its_beginning():
    # timm 0.3, CosineLRScheduler: cosine of the number of finished epochs.
    values = rates("cosine", by_epoch=True, warmup_epochs=0, final=0.1)
    expected = [0.1 + 0.4 * (1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(5)]
    assert values == pytest.approx([x for x in expected for _ in range(20)])
    warm = rates("cosine", by_epoch=True, warmup_epochs=2, warmup_initial=0.1)
    assert [rate for rate, _ in itertools.groupby(warm)][:3] == pytest.approx([0.1, 0.3, 0.5])


def test_without_warm_up_the_first_step_is_at_the_top():
    assert rates("constant", warmup_steps=0) == [0.5] * TOTAL_STEPS
    assert rates("cosine", warmup_epochs=0)[0] == pytest.approx(0.5, rel=1e-3)


def test_transformer_is_that_of_the_paper():
    # d^-0.5 * min(s^-0.5, s * w^-1.5) with the peak d^-0.5 * w^-0.5.
    width, warmup = 144, 10
    values = rates("transformer", peak=(width * warmup) ** -0.5)
    expected = [width**-0.5 * min(s**-0.5, s * warmup**-1.5) for s in range(1, TOTAL_STEPS + 1)]
    assert values == pytest.approx(expected)


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_cosine_ends_at_its_final_rate_and_stays_there(name):
    values = rates(name, num_steps=TOTAL_STEPS + 20, final=0.01)
    assert values[TOTAL_STEPS - 1 :] == pytest.approx([0.01] * 21)


def test_a_run_no_longer_than_its_warm_up():
    config = ScheduleConfig(name="cosine", peak=0.5, warmup_steps=10)
    assert learning_rate(config, 5, total_steps=5) == 0.25
    assert learning_rate(config, 11, total_steps=10) == 0.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"warmup_steps": 0},
        {"name": "cosine", "warmup_steps": -1},
        {"name": "cosine", "warmup_epochs": -1.0},
        {"peak": 0.0},
        {"peak": -1e-3},
        {"peak": math.inf},
        {"warmup_epochs": math.inf},
        {"final": 1.0},
        {"warmup_initial": 1.0},
        {"decay_rate": 0.0},
        {"decay_rate": 1.5},
        {"decay_epochs": 0.0},
    ],
)
def test_impossible_schedules_are_refused(arguments):
    with refused("Expected "):
        load(ScheduleConfig, None, arguments)
