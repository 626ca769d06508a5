"""Every number of every config has its range, and one mechanism refuses what is outside."""

import dataclasses
import importlib
import math
import typing

import pytest

from tests.support.errors import refused
from tools.config.loader import load
from tools.config.values import optional
from tools.ranges import Range, check_ranges, number

CONFIGS = {
    "conformer": "ConformerConfig", "vision": "VisionConfig", "wav2vec2": "Wav2Vec2Config",
}  # fmt: skip


def numbers(config_class, prefix=""):
    """Fields of integers and floats, also of several, by dotted key, with the type of one."""
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        kind = optional(hints[field.name]) or hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from numbers(kind, f"{prefix}{field.name}.")
        kind = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
        if kind in (int, float):
            yield prefix + field.name, field, kind


def outside(allowed, kind):
    """The nearest numbers beyond each bound, and infinities."""
    bounds = ((allowed.at_least, -1), (allowed.at_most, 1))
    for bound, sign in bounds:
        if bound is not None:
            yield bound + sign if kind is int else math.nextafter(bound, sign * math.inf)
    yield from (x for x in (allowed.above, allowed.below) if x is not None)
    if kind is float:
        yield from (math.inf, -math.inf)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_number_has_a_range_and_none_outside_is_taken(family):
    config_class = getattr(importlib.import_module(f"{family}.config"), CONFIGS[family])
    found = list(numbers(config_class))
    assert len(found) > 40
    assert [key for key, field, _ in found if "range" not in field.metadata] == []
    for key, field, kind in found:
        several = isinstance(field.default, tuple)
        for value in outside(field.metadata["range"], kind):
            words = ",".join([repr(value)] * max(1, len(field.default))) if several else repr(value)
            words = words if kind is float else words.replace(".0", "")
            with refused(match=rf"Expected {key} .*Received: {value}"):
                load(config_class, None, {key: words})


@pytest.mark.parametrize("family", CONFIGS)
def test_a_metric_that_no_evaluation_gives_is_refused(family):
    module = importlib.import_module(f"{family}.config")
    assert module.load_config().training.best_metric.startswith("eval/")
    for wrong in ("eval/xyz", "wer", ""):
        with refused("training.best_metric one of eval/"):
            module.load_config(None, {"training.best_metric": wrong})
    best = "eval_unaveraged/loss" if family == "vision" else "eval_unaveraged/cer"
    overrides = {"training.best_metric": best, "training.evaluate_unaveraged": "true"}
    assert module.load_config(None, overrides).training.best_metric == best
    with refused("training.best_metric"):
        module.load_config(None, overrides | {"training.evaluate_unaveraged": "false"})


@dataclasses.dataclass(frozen=True)
class Section:
    share: float = number(0.5, at_least=0, below=1)
    sizes: tuple[int, ...] = number((3, 4), above=2)
    limit: float | None = number(None, above=0)


def test_a_section_that_was_not_read_from_yaml_has_the_same_ranges():
    check_ranges(Section())
    check_ranges(Section(0.0, (), 1e-300))
    for wrong, words in (
        (Section(1.0), "share at least 0 and below 1. Received: 1.0"),
        (Section(sizes=(3, 2)), "sizes above 2. Received: 2"),
        (Section(limit=math.inf), "limit above 0. Received: inf"),
    ):
        with refused(words):
            check_ranges(wrong)


def test_a_range_holds_its_bounds_or_not():
    closed, half = Range(at_least=1, at_most=2), Range(above=1, below=2)
    assert [x in closed for x in (0.9, 1, 2, 2.1, math.nan)] == [False, True, True, False, False]
    assert [x in half for x in (1, 1.5, 2)] == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features.max_hz": "9000"}, "8000"),
        ({"features.min_hz": "9000"}, "features.min_hz"),
        ({"features.fft_length": "100"}, "fft_length"),
        ({"features.frame_step_ms": "0.01"}, "frame_step_ms"),
        ({"features.frame_step_ms": "30"}, "frame_length_ms"),
        ({"data.min_seconds": "21"}, "data.max_seconds"),
        ({"waveform_augment.min_noise_snr_db": "50"}, "max_noise_snr_db"),
        ({"waveform_augment.noise_dirs": "[/sounds]"}, "noise_probability above 0"),
        (
            {
                "waveform_augment.impulse_response_dirs": "[/sounds]",
                "waveform_augment.impulse_response_probability": "0",
            },
            "impulse_response_probability above 0",
        ),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(changes, words):
    conformer = importlib.import_module("conformer.config")
    with refused(words):
        conformer.load_config(None, changes)
