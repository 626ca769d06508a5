"""Runners: TensorFlow's on a SavedModel of two functions, a converted one on functions at hand."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tests.support.saved_models import save_model
from tools.conversion.artifact import Artifact
from tools.conversion.pipeline import read_pipeline
from tools.conversion.protocol import TensorSpec
from tools.inference.eager import EagerRunner
from tools.inference.runner import JitRunner, load

PIPELINE = {"family": "toy", "sample_rate_hz": 16000}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "model"
    module = tf.Module()
    module.factor = tf.Variable(2.0)

    @tf.function(input_signature=[
        tf.TensorSpec([None, 3], tf.float32, "waveforms"),
        tf.TensorSpec([None], tf.int32, "lengths"),
    ])  # fmt: skip
    def serving_default(waveforms, lengths):
        return {"sums": module.factor * tf.reduce_sum(waveforms, 1), "lengths": lengths + 1}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "bytes")])
    def serve_bytes(bytes):
        return {"text": tf.strings.join([bytes, "!"])}

    functions = {"serving_default": serving_default, "serve_bytes": serve_bytes}
    return save_model(directory, module, functions, PIPELINE)


@pytest.fixture
def damaged(whole, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "model")


def test_it_runs_every_signature_on_any_batch(whole):
    runner = load(str(whole))
    for rows in (1, 3):
        inputs = {
            "waveforms": np.ones((rows, 3), np.float32),
            "lengths": np.arange(rows, dtype="i4"),
        }
        found = runner.run(inputs)
        assert found.keys() == {"sums", "lengths"}
        np.testing.assert_array_equal(found["sums"], [6.0] * rows)
        np.testing.assert_array_equal(found["lengths"], np.arange(rows) + 1)
        assert isinstance(found["sums"], np.ndarray)
    found = runner.run({"bytes": np.array([b"a", b"\0\xff"], object)}, "serve_bytes")
    assert found["text"].tolist() == [b"a!", b"\0\xff!"]


def test_it_says_what_it_is(whole):
    runner = load(whole)
    assert (runner.mode, runner.pipeline) == ("eager", PIPELINE)
    assert runner.pipeline == read_pipeline(whole)
    assert runner.signatures == {
        "serving_default": (("lengths", "int32", (None,)), ("waveforms", "float32", (None, 3))),
        "serve_bytes": (("bytes", "string", (None,)),),
    }


def test_what_tensorflow_refuses_is_one_line():
    spec = tf.TensorSpec([None], tf.int32, "index")
    look_up = tf.function(lambda index: {"found": tf.gather([1.0, 2.0], index)}, [spec])
    runner = EagerRunner({"serving_default": look_up.get_concrete_function()}, {})
    assert runner.run({"index": np.array([1], "int32")})["found"].tolist() == [2.0]
    with refused(match="inputs on which the model can run. Received: .*5 is not in"):
        runner.run({"index": np.array([5], "int32")})


@pytest.mark.parametrize("missing", ["saved_model.pb", "assets/pipeline.json", ""])
def test_what_is_no_export_is_one_line(damaged, missing):
    path = damaged / missing if missing else damaged / "nowhere"
    if missing:
        path.unlink()
    with refused("SavedModel directory") as caught:
        load(damaged if missing else path)
    assert ("does not exist" in str(caught.value)) == (not missing)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("saved_model.pb", b"\xff" * 100),
        ("saved_model.pb", b""),
        ("assets/pipeline.json", b"{"),
        ("assets/pipeline.json", b"\xff"),
        ("variables/variables.index", b"nonsense"),
        ("variables/variables.index", None),
        ("variables/variables.data-00000-of-00001", None),
        ("variables/variables.data-00000-of-00001", b"\0"),
    ],
)
def test_a_damaged_export_is_one_line(damaged, file, content):
    if content is None:
        (damaged / file).unlink()
    else:
        (damaged / file).write_bytes(content)
    with refused(str(damaged), match="readable"):
        load(damaged)


def converted(waveforms, prepares=False, kind=None, paddable=True, small=False, **functions):
    """A converted model that takes waveforms of a shape and gives back what it got."""
    given = []

    def listen(inputs):
        given.append({name: array.copy() for name, array in inputs.items()})
        return {"sums": inputs["waveforms"].sum(axis=1), "lengths": inputs["lengths"]}

    specs = (
        TensorSpec("lengths", "int32", waveforms[:1]),
        TensorSpec("waveforms", "float32", waveforms),
    )
    name = "listen" if kind else "serving_default"
    manifest = {
        "request": {"precision": "bf16", "backend": "onnxruntime"},
        "signatures": {name: {"prepares_shapes": prepares, "paddable": paddable, "small": small}},
    }
    pipeline = {"family": "toy", **({"kind": kind} if kind else {})}
    runner = JitRunner(Artifact(manifest, pipeline, [], {name: specs}, {name: listen, **functions}))
    return runner, given


def ones(rows, samples):
    return {
        "waveforms": np.ones((rows, samples), np.float32),
        "lengths": np.full(rows, samples, np.int32),
    }


@pytest.mark.parametrize(
    ("waveforms", "prepares", "rows", "samples", "seen"),
    [
        ((4, 10), False, 3, 7, (4, 10)),
        ((4, 10), True, 4, 10, (4, 10)),
        (((1, 8), (2, 100)), False, 3, 37, (3, 37)),
        # The first sizes up to 100 are 6, 7, 8 ... 34, 38, 43 ...; never beyond the upper end.
        (((1, 8), (2, 100)), True, 3, 37, (3, 38)),
        (((1, 8), (2, 38)), True, 3, 37, (3, 38)),
    ],
)
def test_a_converted_model_gets_the_sizes_it_takes_and_answers_for_the_rows_given(
    waveforms, prepares, rows, samples, seen
):
    runner, given = converted(waveforms, prepares)
    outputs = runner.run(ones(rows, samples))
    assert given[0]["waveforms"].shape == seen
    assert given[0]["waveforms"].sum() == rows * samples
    assert given[0]["lengths"].tolist() == [samples] * rows + [0] * (seen[0] - rows)
    assert outputs["sums"].tolist() == [samples] * rows
    assert outputs["lengths"].tolist() == [samples] * rows


def test_a_partial_batch_goes_up_to_a_power_of_two_within_the_largest_batch():
    runner, given = converted(((1, 8), (2, 100)), True)
    for rows in (3, 6, 5, 3, 2, 1):
        outputs = runner.run(ones(rows, 100))
        assert outputs["sums"].tolist() == [100] * rows
    assert [len(inputs["lengths"]) for inputs in given] == [3, 6, 6, 4, 2, 1]


@pytest.mark.parametrize("batch", [3, (1, 3)])
def test_a_search_may_have_more_hypotheses_than_a_batch_has_rows(batch):
    runner, given = converted((batch, 10 if batch == 3 else (2, 10)), small=True)
    outputs = runner.run(ones(7, 10))
    assert outputs["sums"].tolist() == outputs["lengths"].tolist() == [10] * 7
    assert [len(inputs["lengths"]) for inputs in given] == ([3] * 3 if batch == 3 else [2, 2, 3])
    with refused("waveforms of shape"):
        runner.run(ones(7, 11))


def test_a_signature_that_padding_would_change_keeps_its_lengths():
    runner, given = converted(((1, 8), (2, 100)), True, paddable=False)
    runner.run(ones(3, 37))
    assert given[0]["waveforms"].shape == (3, 37)
    assert runner.expect("waveforms", [37, 50]) == []


@pytest.mark.parametrize("prepares", [False, True])
def test_what_is_below_the_lower_end_of_a_range_is_padded_up_to_it(prepares):
    runner, given = converted(((2, 8), (16, 100)), prepares)
    for _ in range(20):  # more than are seen before sizes are fitted to them
        outputs = runner.run(ones(1, 7))
    assert {inputs["waveforms"].shape for inputs in given} == {(2, 16)}
    assert given[-1]["lengths"].tolist() == [7, 0]
    assert outputs["sums"].tolist() == outputs["lengths"].tolist() == [7]
    with refused("waveforms of shape [2:8, 16:100]. Received: [1, 0]"):
        runner.run(ones(1, 0))


@pytest.mark.parametrize("prepares", [False, True])
def test_a_length_below_its_range_is_refused_where_padding_would_change_the_result(prepares):
    runner, given = converted(((2, 8), (16, 100)), prepares, paddable=False)
    with refused("waveforms of shape [2:8, 16:100]. Received: [2, 7]. Convert again with a"):
        runner.run(ones(2, 7))
    runner.run(ones(1, 16))
    assert [inputs["waveforms"].shape for inputs in given] == [(2, 16)]


def test_250_lengths_are_few_shapes_and_the_runner_counts_them():
    runner, given = converted(((1, 8), (400, 48000)), True)
    lengths = np.random.default_rng(0).integers(16000, 48001, 250)
    for samples in lengths:
        runner.run(ones(1, int(samples)))
    shapes = {inputs["waveforms"].shape for inputs in given}
    assert len(shapes) <= 24
    counts = runner.shapes.described()
    assert (counts["prepared"], counts["reused"]) == (len(shapes), 250 - len(shapes))
    assert counts["first_run_seconds"] > 0


def test_lengths_that_are_announced_get_their_sizes():
    runner, given = converted(((1, 8), (400, 48000)), True)
    assert runner.expect("waveforms", [20000, 20000, 9000] * 20) == [20000, 9000]
    assert runner.expect("lengths", [1]) == runner.expect("waveforms", []) == []
    for samples in (20000, 9000, 8999):
        runner.run(ones(1, samples))
    assert [inputs["waveforms"].shape[1] for inputs in given] == [20000, 9000, 9000]
    runner.run(ones(1, 47999))
    assert 47999 <= given[-1]["waveforms"].shape[1] <= 48000


@pytest.mark.parametrize(("rows", "samples"), [(5, 10), (4, 11)])
def test_a_converted_model_refuses_what_is_too_large(rows, samples):
    runner, given = converted((4, 10))
    with refused("waveforms of shape [4, 10]"):
        runner.run(ones(rows, samples))
    assert not given


def test_a_converted_model_says_what_it_is():
    runner, _ = converted(((1, 8), (2, 100)))
    assert (runner.mode, runner.backend, runner.precision) == ("jit", "onnxruntime", "bf16")
    assert runner.signatures.keys() == {"serving_default"}


def test_a_converted_transducer_has_its_pieces_and_no_answer_of_its_own():
    """A runner is a bag of signatures: the search that answers belongs to a session."""
    runner, given = converted(((1, 8), (2, 100)), kind="transducer")
    assert runner.signatures.keys() == {"listen"}
    assert runner.run(ones(2, 5), "listen")["sums"].tolist() == [5, 5]
    with pytest.raises(KeyError, match="serving_default"):
        runner.run(ones(2, 5))
    assert len(given) == 1
