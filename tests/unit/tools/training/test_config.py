"""Ranges of the section `training`."""

import pytest

from tests.support.errors import refused
from tools.config.loader import load
from tools.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", "0"),
        ("num_epochs", "0"),
        ("log_every_steps", "0"),
        ("eval_every_epochs", "0"),
        ("print_every_steps", "-1"),
        ("max_skipped_steps", "-1"),
        ("seed", "-1"),
        ("seed", "4294967296"),
        ("loss_scale.initial", "0"),
        ("loss_scale.initial", "inf"),
        ("loss_scale.growth_steps", "0"),
        ("checkpoint.keep_last", "0"),
        ("checkpoint.keep_best", "-1"),
        ("checkpoint.every_seconds", "-1"),
        ("checkpoint.every_steps", "-1"),
        ("optimizer.beta_2", "1"),
        ("optimizer.average_decay", "-0.1"),
    ],
)
def test_values_out_of_range_are_one_line(key, value):
    with refused(key.rpartition(".")[2]):
        load(TrainingConfig, None, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((name, "1") for name in ("batch_size", "num_epochs", "log_every_steps")),
        ("eval_every_epochs", "1"),
        ("max_skipped_steps", "0"),
        ("seed", "4294967295"),
        ("print_every_steps", "0"),
        ("loss_scale.growth_steps", "1"),
        ("checkpoint.keep_last", "1"),
        ("checkpoint.keep_best", "0"),
        ("optimizer.layer_decay", "1"),
        ("optimizer.beta_1", "0"),
        ("optimizer.average_decay", "0"),
    ],
)
def test_the_ends_of_ranges_are_allowed(key, value):
    load(TrainingConfig, None, {key: value})
