"""The mean time of a step, over the steps that the original counts."""

import pytest

from tools.training.step_times import StepTimes


@pytest.mark.parametrize(
    ("count", "counted"),
    [
        (1, range(1)),
        (2, range(1, 2)),
        (10, range(5, 10)),
        (40, range(20, 40)),
        (41, range(1, 41)),
        (299, range(259, 299)),
        (300, range(10, 300)),
        (301, range(261, 301)),
        (1000, range(960, 1000)),
    ],
)
def test_the_steps_that_count(count, counted):
    times = StepTimes()
    for number in range(count):
        times.add(0.5 + number)
    stats = times.summary(32)["overall_stats"]
    mean = sum(0.5 + number for number in counted) / len(counted)
    assert stats == {
        "batch_size": 32,
        "throughput_mean": pytest.approx(32 / mean),
        "e2e": pytest.approx(mean),
    }


def test_a_block_is_measured(monkeypatch):
    clock = iter([10.0, 10.25])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    times = StepTimes()
    with times.step():
        pass
    assert times.summary(8)["overall_stats"]["e2e"] == 0.25
    assert StepTimes().summary(8)["overall_stats"] == {
        "batch_size": 8,
        "throughput_mean": 0.0,
        "e2e": 0.0,
    }
