"""Tensors of several requests: what runs together, and that each gets its own outputs."""

import numpy as np
import pytest

from tests.support.served import FakeRunner, served
from tools.conversion.protocol import TensorSpec
from tools.inference.session import Session
from tools.serving.joined_rows import JoinedRows, Tensors


def pair(*numbers):
    rows = np.array(numbers, np.float32)
    return Tensors({"x": np.stack([rows, -rows], 1), "n": rows.astype(np.int32)}, "serving_default")


@pytest.fixture
def runner():
    return FakeRunner()


@pytest.fixture
def joined(runner):
    return JoinedRows(Session(runner), 4)


def test_each_request_gets_what_it_gets_alone(joined, runner):
    items = [pair(1), pair(2, 3), pair(4), pair(5)]
    found = joined.run(items)
    assert runner.sizes == [4, 1]
    for item, outputs in zip(items, found, strict=True):
        (alone,) = joined.run([item])
        assert outputs.keys() == alone.keys()
        for name, array in alone.items():
            np.testing.assert_array_equal(outputs[name], array)


def test_a_request_with_more_rows_than_a_batch_runs_alone(joined, runner):
    joined.run([pair(*range(6)), pair(7)])
    assert runner.sizes == [6, 1]


def test_tensors_of_other_shapes_dtypes_or_signatures_have_other_keys(joined):
    item = pair(1)
    assert joined.key(item) == joined.key(pair(2, 3))
    wide = Tensors({"x": np.zeros((1, 3), np.float32), "n": item.inputs["n"]}, item.signature)
    other = Tensors({**item.inputs, "n": item.inputs["n"].astype(np.int64)}, item.signature)
    half = item._replace(signature="half")
    assert len({joined.key(x) for x in (item, wide, other, half)}) == 4


@pytest.mark.parametrize(("rows", "sizes"), [(1, [1, 1, 1]), ((1, 2), [2, 1]), (None, [3])])
def test_models_limit_the_rows(joined, runner, rows, sizes):
    runner.signatures["half"] = (TensorSpec("x", "float32", (rows,)),)
    one = Tensors({"x": np.ones(1, np.float32)}, "half")
    joined.run([one, one, one])
    assert runner.sizes == sizes


def test_outputs_that_have_no_rows_are_computed_for_each_request(joined, runner):
    runner.run = lambda inputs, signature: {"sum": np.sum(inputs["x"], keepdims=False)[None]}
    found = joined.run([pair(1), pair(2)])
    assert [outputs["sum"].tolist() for outputs in found] == [[0.0], [0.0]]


def test_tensors_of_several_requests_run_together():
    model, runner = served()
    runner.gate.clear()
    inputs = pair(1).inputs
    futures = [model.submit_tensors(inputs) for _ in range(5)]
    runner.gate.set()
    assert all(future.result(20)["label"][0] == b"n1" for future in futures)
    assert sum(runner.sizes) == 5 and len(runner.sizes) <= 2
    model.close()
