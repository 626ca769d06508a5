"""Dim ranges: read, spread over a signature, held against arrays."""

import numpy as np
import pytest

from tests.support.errors import refused
from tools.conversion.dim_range import (
    bounded,
    check_inputs,
    fit,
    pad_to,
    parse_dim_ranges,
    shapes_of,
)
from tools.conversion.protocol import TensorSpec

FREE = (TensorSpec("lengths", "int32", (None,)), TensorSpec("waveforms", "float32", (None, None)))
SPECS = (
    TensorSpec("lengths", "int32", ((1, 4),)),
    TensorSpec("waveforms", "float32", ((1, 4), (100, 200))),
)
FIXED = (TensorSpec("lengths", "int32", (4,)), TensorSpec("waveforms", "float32", (4, 200)))


def sound(rows, samples, dtype=np.float32):
    return {
        "lengths": np.full(rows, samples, np.int32),
        "waveforms": np.ones((rows, samples), dtype),
    }


def test_the_form_of_the_flag():
    assert parse_dim_ranges("waveforms=1:8,16000:560000") == {
        "waveforms": ((1, 8), (16000, 560000))
    }
    assert parse_dim_ranges(" a = 4 , 2:3 ; b=1:1") == {"a": ((4, 4), (2, 3)), "b": ((1, 1),)}


@pytest.mark.parametrize(
    "text",
    ["", "waveforms", "waveforms=", "a=1:", "a=8:1", "a=0:4", "a=1:2;a=1:2", "a=1-8", "a=1:2:3"],
)
def test_another_form_is_one_line(text):
    with refused(match="--dim_range"):
        parse_dim_ranges(text)


def test_the_batch_of_one_tensor_holds_for_all():
    assert bounded(FREE, {"waveforms": ((1, 4), (100, 200))}) == SPECS
    assert bounded(FREE, {"waveforms": ((4, 4), (200, 200))}) == FIXED


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"images": ((1, 4),)}, "images"),
        ({"waveforms": ((1, 4),)}, r"2 ranges for waveforms of shape \[\?, \?\]"),
        ({"lengths": ((1, 4),)}, "2 ranges for waveforms"),
        ({}, "1 range for lengths"),
    ],
)
def test_ranges_that_do_not_fit_are_one_line(ranges, message):
    with refused(match=message):
        bounded(FREE, ranges)


@pytest.mark.parametrize(("rows", "samples"), [(1, 100), (4, 200), (2, 150)])
def test_both_ends_are_inside(rows, samples):
    check_inputs(sound(rows, samples), SPECS)
    assert fit(sound(rows, samples), SPECS)


@pytest.mark.parametrize(("rows", "samples"), [(5, 150), (2, 99), (2, 201), (0, 150)])
def test_outside_is_a_line_that_names_the_range(rows, samples):
    with refused(match=r"\[1:4"):
        check_inputs(sound(rows, samples), SPECS)
    assert not fit(sound(rows, samples), SPECS)


def test_what_is_missing_unknown_or_of_another_type_is_one_line():
    for inputs, message in (
        ({"waveforms": np.ones((1, 150), np.float32)}, "inputs lengths, waveforms"),
        ({**sound(1, 150), "more": np.ones(1)}, "inputs lengths, waveforms"),
        (sound(1, 150, np.float64), "float64"),
        ({**sound(1, 150), "waveforms": np.ones(150, np.float32)}, "waveforms of shape"),
    ):
        assert not fit(inputs, SPECS)
        with refused(match=message):
            check_inputs(inputs, SPECS)


def test_padding_fills_fixed_sizes_and_nothing_else():
    padded = pad_to(sound(2, 150), shapes_of(FIXED))
    check_inputs(padded, FIXED)
    assert padded["lengths"].tolist() == [150, 150, 0, 0]
    assert padded["waveforms"].sum() == 300
    ranged = sound(2, 150)
    assert pad_to(ranged, shapes_of(SPECS))["waveforms"] is ranged["waveforms"]
    with refused(match="waveforms"):
        check_inputs(pad_to(sound(2, 201), shapes_of(FIXED)), FIXED)


def test_inputs_of_different_batches_are_one_line():
    inputs = sound(3, 150) | {"lengths": np.full(2, 150, np.int32)}
    assert not fit(inputs, SPECS)
    with refused("inputs of one batch"):
        check_inputs(inputs, SPECS)


@pytest.mark.parametrize("rows", [[151, 2], [2, -1], [2**31 - 1, 0], [-(2**31), 150]])
@pytest.mark.parametrize("pads", [False, True])
def test_lengths_outside_of_the_samples_are_one_line(rows, pads):
    inputs = sound(2, 150) | {"lengths": np.array(rows, np.int32)}
    assert not fit(inputs, SPECS)
    wrong = next(x for x in rows if not 0 <= x <= 150)
    with refused(f"lengths from 0 to 150, the size of waveforms. Received: {wrong}"):
        check_inputs(inputs, SPECS, pads=pads, pads_lengths=pads)


def test_lengths_from_none_to_all_of_the_samples_fit():
    inputs = sound(2, 150) | {"lengths": np.array([0, 150], np.int32)}
    check_inputs(inputs, SPECS)
    assert fit(inputs, SPECS)


def test_the_lengths_of_several_inputs_are_not_checked():
    specs = (*SPECS, TensorSpec("others", "float32", ((1, 4), 3)))
    inputs = sound(2, 150) | {"others": np.ones((2, 3), np.float32)}
    inputs["lengths"] += 9
    check_inputs(inputs, specs)
    assert fit(inputs, specs)
