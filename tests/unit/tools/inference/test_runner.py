"""The eager runner on a SavedModel of two functions."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tools.conversion.pipeline import read_pipeline
from tools.errors import UserError
from tools.inference.runner import load

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
    tf.saved_model.save(
        module, str(directory), {name: f.get_concrete_function() for name, f in functions.items()}
    )
    (directory / "assets").mkdir(exist_ok=True)
    (directory / "assets" / "pipeline.json").write_text(json.dumps(PIPELINE))
    return directory


@pytest.fixture
def damaged(whole, tmp_path):
    """A copy to be damaged."""
    copy = tmp_path / "model"
    for file in whole.rglob("*"):
        if file.is_file():
            target = copy / file.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return copy


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


@pytest.mark.parametrize("missing", ["saved_model.pb", "assets/pipeline.json", ""])
def test_what_is_no_export_is_one_line(damaged, missing):
    path = damaged / missing if missing else damaged / "nowhere"
    if missing:
        path.unlink()
    with pytest.raises(UserError, match="SavedModel directory") as caught:
        load(damaged if missing else path)
    assert ("does not exist" in str(caught.value)) == (not missing)
    assert "\n" not in str(caught.value)


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
    with pytest.raises(UserError, match="readable") as caught:
        load(damaged)
    assert str(damaged) in str(caught.value)
    assert "\n" not in str(caught.value)
