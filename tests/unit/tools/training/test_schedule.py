"""Learning rates against their closed forms."""

import math

import pytest

from tools.errors import UserError
from tools.training.config import ScheduleConfig
from tools.training.schedule import learning_rate

NAMES = ["transformer", "cosine", "constant"]
TOTAL_STEPS = 100


def rates(name, num_steps=TOTAL_STEPS, **arguments):
    config = ScheduleConfig(name=name, **{"peak": 0.5, "warmup_steps": 10, **arguments})
    return [learning_rate(config, step, TOTAL_STEPS) for step in range(1, num_steps + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_is_a_line_that_meets_the_rest(name):
    values = rates(name)
    assert values[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
    assert max(values) == values[9] == 0.5
    assert abs(values[10] - values[9]) < 0.05


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("transformer", lambda step: 0.5 * math.sqrt(10 / step)),
        ("cosine", lambda step: 0.1 + 0.4 * (1 + math.cos(math.pi * (step - 10) / 90)) / 2),
        ("constant", lambda step: 0.5),
    ],
)
def test_closed_forms_after_warm_up(name, formula):
    values = rates(name, final=0.1)
    assert values[10:] == pytest.approx([formula(step) for step in range(11, TOTAL_STEPS + 1)])
    assert values[10:] == sorted(values[10:], reverse=True)


def test_transformer_is_that_of_the_paper():
    # d^-0.5 * min(s^-0.5, s * w^-1.5) with the peak d^-0.5 * w^-0.5.
    width, warmup = 144, 10
    values = rates("transformer", peak=(width * warmup) ** -0.5)
    expected = [width**-0.5 * min(s**-0.5, s * warmup**-1.5) for s in range(1, TOTAL_STEPS + 1)]
    assert values == pytest.approx(expected)


def test_cosine_ends_at_its_final_rate_and_stays_there():
    values = rates("cosine", num_steps=TOTAL_STEPS + 20, final=0.01)
    assert values[TOTAL_STEPS - 1 :] == pytest.approx([0.01] * 21)


def test_a_run_no_longer_than_its_warm_up():
    config = ScheduleConfig(name="cosine", peak=0.5, warmup_steps=10)
    assert learning_rate(config, 5, total_steps=5) == 0.25
    assert learning_rate(config, 11, total_steps=10) == 0.0


@pytest.mark.parametrize("arguments", [{"warmup_steps": 0}, {"peak": 0.0}, {"peak": -1e-3}])
def test_impossible_schedules_are_refused(arguments):
    with pytest.raises(UserError, match="schedule"):
        ScheduleConfig(**arguments).validate()
