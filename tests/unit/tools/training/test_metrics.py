"""The means and speeds of a window of steps, by values and a clock that are known."""

import math

import pytest
import tensorflow as tf

from tools.training.metrics import Window
from tools.training.step import StepResult


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def step(loss, weight, norm=1.0, finite=True, **metrics):
    metrics = {name: tf.constant(value) for name, value in metrics.items()}
    loss, weight, norm = (tf.constant(x, tf.float32) for x in (loss, weight, norm))
    return StepResult(loss, weight, norm, tf.constant(finite), metrics, tf.zeros([1]))


def test_means_are_weighted_by_the_rows_that_count(clock):
    window = Window(clock)
    window.add(step(2.0, 3.0, norm=5.0, accuracy=0.25))
    window.add(step(4.0, 1.0, norm=7.0, accuracy=1.0))
    clock.seconds += 8.0
    values = window.close()
    assert values["train/loss"] == pytest.approx((2 * 3 + 4 * 1) / 4)
    assert values["train/accuracy"] == pytest.approx((0.25 * 3 + 1.0 * 1) / 4)
    assert values["train/gradient_norm"] == 7.0, "that of the last step"
    assert values["perf/samples_per_second"] == pytest.approx(4 / 8)
    assert values["perf/steps_per_second"] == pytest.approx(2 / 8)


def test_a_step_without_an_update_counts_for_speed_only(clock):
    window = Window(clock)
    window.add(step(2.0, 3.0, norm=5.0, accuracy=0.5))
    window.add(step(math.nan, 5.0, norm=math.inf, finite=False, accuracy=math.nan))
    clock.seconds += 2.0
    values = window.close()
    assert values["train/loss"] == pytest.approx(2.0)
    assert values["train/accuracy"] == pytest.approx(0.5)
    assert values["train/gradient_norm"] == 5.0
    assert values["perf/samples_per_second"] == pytest.approx(8 / 2)
    assert values["perf/steps_per_second"] == pytest.approx(2 / 2)


def test_a_window_without_an_update_has_no_loss(clock):
    window = Window(clock)
    window.add(step(math.nan, 4.0, norm=math.inf, finite=False))
    clock.seconds += 1.0
    assert math.isnan(window.close()["train/loss"])


def test_the_share_of_waiting_is_that_of_the_time_until_the_window_ends(clock):
    def batches():
        for number in range(2):
            clock.seconds += 1.0 + number  # reading takes 1 s, then 2 s
            yield {"number": number}

    window, reader = Window(clock), batches()
    for number in range(2):
        assert window.wait(reader) == {"number": number}
        clock.seconds += 4.0  # of the step itself
        window.add(step(1.0, 6.0))
    assert window.shown() == {"loss": "1.000", "samples/s": "1.1", "data wait": "27%"}
    values = window.close()
    assert values["perf/data_wait_share"] == pytest.approx(3 / 11)
    assert values["perf/samples_per_second"] == pytest.approx(12 / 11)


def test_the_next_window_starts_with_nothing(clock):
    def reader():
        clock.seconds += 3.0
        yield {}

    window = Window(clock)
    window.wait(reader())
    window.add(step(8.0, 2.0, accuracy=0.5))
    window.close()
    clock.seconds += 0.5
    window.add(step(1.0, 4.0))
    values = window.close()
    assert values == {
        "train/loss": 1.0,
        "train/gradient_norm": 1.0,
        "perf/samples_per_second": 8.0,
        "perf/steps_per_second": 2.0,
        "perf/data_wait_share": 0.0,
    }
