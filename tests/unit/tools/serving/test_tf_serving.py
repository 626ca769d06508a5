"""The REST format of TensorFlow Serving, by the examples of its guide."""

import json

import numpy as np
import pytest

from tests.support.errors import refused
from tools.conversion.protocol import TensorSpec
from tools.serving.tf_serving import (
    metadata_answer,
    parse_json,
    predict_answer,
    predict_request,
    status_answer,
)

# The guide's model with the inputs tag, signal and sensor.
SENSORS = {
    "serving_default": (
        TensorSpec("tag", "string", (None,)),
        TensorSpec("signal", "float32", (None, None)),
        TensorSpec("sensor", "float32", (None, 2, 2)),
    ),
    "one": (TensorSpec("x", "float32", ((1, 64), (1, 100))),),
    "image": (TensorSpec("image_bytes", "string", (None,)),),
    "small": (TensorSpec("n", "int32", (None,)),),
    "count": (TensorSpec("n", "int64", (None,)), TensorSpec("ok", "bool", (None,))),
}
ROWS = {
    "instances": [
        {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
        {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
    ]
}
COLUMNS = {
    "inputs": {
        "tag": ["foo", "bar"],
        "signal": [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]],
        "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]],
    }
}


@pytest.mark.parametrize("content", [ROWS, COLUMNS])
def test_rows_and_columns_give_the_same_arrays(content):
    asked = predict_request(parse_json(json.dumps(content).encode()), SENSORS)
    assert asked.signature == "serving_default"
    assert asked.by_row == ("instances" in content)
    assert asked.inputs["tag"].tolist() == [b"foo", b"bar"]
    np.testing.assert_array_equal(asked.inputs["signal"], [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]])
    np.testing.assert_array_equal(asked.inputs["sensor"], [[[1, 2], [3, 4]], [[4, 5], [6, 8]]])
    assert [asked.inputs[name].dtype for name in ("signal", "sensor")] == ["float32", "float32"]


@pytest.mark.parametrize(
    "content",
    [
        {"instances": [[1, 2], [3, 4]]},
        {"instances": [{"x": [1, 2]}, {"x": [3, 4]}]},
        {"instances": [{"x": [1, 2]}, [3, 4]]},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": {"x": [[1.0, 2], [3, 4]]}},
    ],
)
def test_a_single_input_needs_no_name(content):
    asked = predict_request({**content, "signature_name": "one"}, SENSORS)
    np.testing.assert_array_equal(asked.inputs["x"], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "content",
    [
        {"instances": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]},
        {"instances": [{"image_bytes": {"b64": "aGVsbG8="}}, {"image_bytes": "world"}]},
        {"inputs": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]},
        {"inputs": {"image_bytes": [{"b64": "aGVsbG8="}, "world"]}},
    ],
)
def test_bytes_are_base64(content):
    asked = predict_request({**content, "signature_name": "image"}, SENSORS)
    assert asked.inputs["image_bytes"].tolist() == [b"hello", b"world"]


def test_integers_and_booleans_keep_their_type():
    content = {"inputs": {"n": [1 << 40, -1], "ok": [True, False]}, "signature_name": "count"}
    asked = predict_request(content, SENSORS)
    assert asked.inputs["n"].tolist() == [1 << 40, -1]
    assert asked.inputs["ok"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "a JSON object"),
        (b"{", "a JSON object"),
        (b"[1]", "a JSON object"),
        (b'{"a": "\xff"}', "a JSON object"),
        (b"[" * 100_000, "a JSON object"),
    ],
)
def test_bodies_without_an_object_are_refused(body, message):
    with refused(message):
        parse_json(body)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "either instances or inputs"),
        ({"instances": [[1]], "inputs": [[1]]}, "instances and inputs"),
        ({"instances": []}, "a list with instances"),
        ({"instances": 5}, "a list with instances"),
        ({"instances": [[1], [1, 2]]}, "rows of different lengths"),
        ({"instances": [[1], 2]}, "of shape [1 to 64, 1 to 100] in x"),
        ({"instances": [[1e300]]}, "finite numbers"),
        ({"instances": [[float("nan")]]}, "finite numbers"),
        ({"inputs": [[[1]]]}, "shape [1, 1, 1]"),
        ({"instances": [[[1]]]}, "finite numbers of shape"),
        ({"instances": [["1"]]}, "finite numbers of shape"),
        ({"instances": [[True]]}, "finite numbers of shape"),
        ({"instances": [[None]]}, "finite numbers of shape"),
        ({"instances": [[]]}, "no values"),
        ({"inputs": []}, "no values"),
        ({"inputs": {"y": [[1]]}}, "inputs with x"),
        ({"inputs": {}}, "inputs with x"),
        ({"instances": [{"x": [1]}, {"y": [1]}]}, "y in instance 1"),
        ({"instances": [[1]], "signature_name": "two"}, "signature_name among"),
        ({"instances": [[1]], "signature_name": ["one"]}, "signature_name among"),
        ({"instances": [{"b64": "a"}], "signature_name": "image"}, "base64"),
        ({"instances": [{"b64": 5}], "signature_name": "image"}, '{"b64": STRING}'),
        ({"instances": [{"b64": "", "c": 1}], "signature_name": "image"}, "image_bytes"),
        ({"inputs": {"n": [1.5], "ok": [True]}, "signature_name": "count"}, "integers of shape"),
        ({"inputs": {"n": [1 << 70], "ok": [True]}, "signature_name": "count"}, "integers"),
        ({"inputs": [1 << 40], "signature_name": "small"}, "a value that int32 cannot hold"),
        ({"inputs": {"n": [1], "ok": [1]}, "signature_name": "count"}, "booleans of shape"),
        ({"inputs": {"n": [1], "ok": [True, True]}, "signature_name": "count"}, "same number"),
    ],
)
def test_values_that_do_not_fit_are_refused(content, message):
    with refused(message):
        predict_request({"signature_name": "one", **content}, SENSORS)


def test_answers_have_the_format_of_the_request():
    outputs = {
        "score": np.array([0.5, 0.25], np.float32),
        "ids": np.array([[1, 2], [3, 4]], np.int32),
        "text": np.array([b"a", "b"], object),
    }
    assert predict_answer(outputs, by_row=True) == {
        "predictions": [
            {"score": 0.5, "ids": [1, 2], "text": "a"},
            {"score": 0.25, "ids": [3, 4], "text": "b"},
        ]
    }
    assert predict_answer(outputs, by_row=False) == {
        "outputs": {"score": [0.5, 0.25], "ids": [[1, 2], [3, 4]], "text": ["a", "b"]}
    }


def test_a_single_output_needs_no_name():
    outputs = {"y": np.array([[1.0], [2.0]], np.float32)}
    assert predict_answer(outputs, by_row=True) == {"predictions": [[1.0], [2.0]]}
    assert predict_answer(outputs, by_row=False) == {"outputs": [[1.0], [2.0]]}


def test_outputs_named_bytes_are_base64():
    outputs = {"image_bytes": np.array([[b"\xff\x00"]], object)}
    assert predict_answer(outputs, by_row=True) == {"predictions": [[{"b64": "/wA="}]]}


def test_the_state_of_versions():
    assert status_answer({1: "END", 2: "AVAILABLE"}) == {
        "model_version_status": [
            {
                "version": "2",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            },
            {
                "version": "1",
                "state": "END",
                "status": {"error_code": "OK", "error_message": ""},
            },
        ]
    }


def test_metadata_describe_the_inputs():
    found = metadata_answer("sensors", 3, SENSORS)
    assert found["model_spec"] == {"name": "sensors", "signature_name": "", "version": "3"}
    described = found["metadata"]["signature_def"]["signature_def"]
    assert described.keys() == SENSORS.keys()
    assert described["serving_default"]["method_name"] == "tensorflow/serving/predict"
    assert described["serving_default"]["inputs"]["sensor"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": x, "name": ""} for x in ("-1", "2", "2")],
            "unknown_rank": False,
        },
        "name": "sensor",
    }
    assert described["one"]["inputs"]["x"]["tensor_shape"]["dim"][1]["size"] == "-1"
    assert described["image"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
