"""The model config file: read as TensorFlow Serving's own parser reads it."""

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.support.errors import refused
from tools.serving.model_config import labels_of, merged, parse

TEXT = """
# Two models
model_config_list: {
  config { name: "toy", base_path: '/models/to\\\\y'; model_platform: "tensorflow"
    model_version_policy { specific { versions: [3, 4] } }
    version_labels { key: "stable" value: 3 }
    version_labels < key: "canary" value: 4 >
  }
  config: [{ name: "boat" base_path: "/models/boat" }, < name: "ship" >]
}
"""


def test_labels_are_those_of_the_published_message(tmp_path):
    path = tmp_path / "models.config"
    path.write_text(TEXT)
    message = text_format.Parse(TEXT, model_server_config_pb2.ModelServerConfig())
    expected = {x.name: dict(x.version_labels) for x in message.model_config_list.config}
    assert (
        labels_of(path) == expected == {"toy": {"stable": 3, "canary": 4}, "boat": {}, "ship": {}}
    )
    (models,) = parse(TEXT, path)["model_config_list"]
    assert models["config"][0]["base_path"] == [message.model_config_list.config[0].base_path]


def test_without_a_file_there_are_no_labels(tmp_path):
    assert labels_of(tmp_path / "models.config") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {", "a brace that is not closed"),
        ("model_config_list { } }", "}"),
        ("model_config_list { config: [", "config without a value"),
        ("model_config_list { config }", "config without a value"),
        ('model_config_list { config { name: "a } }', "'\"a } }'"),
        ('model_config_list { config { version_labels { key: "a" value: 1 } } }', "'name'"),
        ('model_config_list { config { name: "a" version_labels { key: "a" } } }', "'value'"),
        ("model_config_list { config: 3 }", "a model config file"),
        ("model_config_list: 3", "a model config file"),
        ("3", "3"),
    ],
)
def test_other_texts_are_refused(tmp_path, text, message):
    path = tmp_path / "models.config"
    path.write_text(text)
    with refused(message):
        labels_of(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "models.config").mkdir()
    with refused("a model config file"):
        labels_of(tmp_path / "models.config")


def test_the_second_source_has_priority():
    first = {"a": {"stable": 1, "canary": 2}, "b": {"old": 1}}
    found = merged(first, {"a": {"stable": 3}, "c": {"new": 4}})
    assert found == {"a": {"stable": 3, "canary": 2}, "b": {"old": 1}, "c": {"new": 4}}
