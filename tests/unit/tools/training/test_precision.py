"""Loss scales after good and bad steps."""

import pytest
import tensorflow as tf

from tools.training.config import LossScaleConfig
from tools.training.precision import LossScale


def scales(steps, precision="mixed_float16", **arguments):
    """The scale after each of some steps, "+" finite and "-" not."""
    loss_scale = LossScale(LossScaleConfig(**arguments), precision)
    update = tf.function(loss_scale.update)
    found = []
    for step in steps:
        update(tf.constant(step == "+"))
        found.append(float(loss_scale.scale))
    return found


def test_dynamic_scale_halves_at_once_and_doubles_after_a_row_of_good_steps():
    found = scales("++-+++++-+++", initial=8.0, growth_steps=3)
    assert found == [8, 8, 4, 4, 4, 8, 8, 8, 4, 4, 4, 8]
    assert scales("+-+++", initial=8.0, growth_steps=3) == [8, 4, 4, 4, 8], "a row starts again"


def test_dynamic_scale_stays_within_bounds():
    assert scales("---", initial=2.0) == [1, 0.5, 0.25], "a gradient may need less than it is"
    assert scales("--", initial=2.0**-23) == [2.0**-24, 2.0**-24]
    assert scales("++", initial=2.0**23, growth_steps=1) == [2.0**24, 2.0**24]


def test_fixed_scale_never_moves():
    assert scales("+-+-", mode="fixed", initial=128.0, growth_steps=1) == [128.0] * 4


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("mode", ["dynamic", "fixed"])
def test_other_precisions_have_no_scale(precision, mode):
    assert scales("+-+", precision, mode=mode, growth_steps=1) == [1.0] * 3
    assert not LossScale(LossScaleConfig(mode=mode), precision).active
