"""Exported SavedModels: written whole, hashed, read, and what is none."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tools.conversion.pipeline import describe, read_pipeline, source_hash
from tools.conversion.protocol import TensorSpec
from tools.conversion.saved_model import input_specs, load_saved_model, write_saved_model


@pytest.fixture
def write(tmp_path):
    """Exports `y = factor x` to a folder."""

    def run(factor, folder=tmp_path / "model"):
        weight = keras.Variable(np.float32(factor))
        specs = [tf.TensorSpec([None, 2], tf.float32, x) for x in ("x", "a")]
        function = tf.function(lambda x, a: {"y": weight.value * x + 0 * a}, specs)
        write_saved_model(folder, {"scale": function}, [weight], {"family": "toy", "by": factor})
        return folder

    return run


def test_an_export_computes_and_tells_of_itself(write):
    folder = write(3.0)
    function = load_saved_model(folder)["scale"]
    x = tf.ones([1, 2])
    np.testing.assert_array_equal(function(x=x, a=x)["y"], [[3, 3]])
    assert input_specs(function) == (
        TensorSpec("a", "float32", (None, 2)),
        TensorSpec("x", "float32", (None, 2)),
    )
    assert read_pipeline(folder) == read_pipeline(folder, "toy") == {"family": "toy", "by": 3.0}


@pytest.mark.parametrize("name", ["[1]", "a*b", "what?", "back\\slash"])
def test_folders_with_the_characters_of_patterns(write, name, tmp_path):
    folder = write(3.0, tmp_path / name / "model")
    x = tf.ones([1, 2])
    np.testing.assert_array_equal(load_saved_model(folder)["scale"](x=x, a=x)["y"], [[3, 3]])


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(write, factor):
    folder = write(factor)
    with refused("NaN or infinity in 1 of 1 variable"):
        load_saved_model(folder)


def test_a_relative_folder_with_the_characters_of_patterns(write, tmp_path, monkeypatch):
    write(3.0, tmp_path / "[1]")
    monkeypatch.chdir(tmp_path)
    assert load_saved_model("[1]").keys() == {"scale"}


def test_an_earlier_export_is_replaced_and_what_lies_beside_stays(write):
    folder = write(3.0)
    (folder / "CARD.md").write_text("mine")
    (folder / "samples").mkdir()
    (folder / "samples" / "a.wav").write_text("sound")
    (folder / "assets" / "old.txt").touch()
    write(4.0)
    assert read_pipeline(folder)["by"] == 4.0
    x = tf.ones([1, 2])
    np.testing.assert_array_equal(load_saved_model(folder)["scale"](x=x, a=x)["y"], [[4, 4]])
    assert (folder / "CARD.md").read_text() == "mine"
    assert (folder / "samples" / "a.wav").read_text() == "sound"
    assert [path.name for path in (folder / "assets").iterdir()] == ["pipeline.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_what_is_no_export_is_left_alone(write, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with refused("new or an earlier export"):
        write(1.0, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.fixture
def fake(tmp_path):
    """Files in the layout of a SavedModel, that nobody could load."""
    folder = tmp_path / "fake"
    for name in ("saved_model.pb", "variables/variables.index", "assets/pipeline.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(("place", "shown"), [(3, "3"), (b"x", "b'x'"), ("", "''")])
def test_what_is_no_path_is_refused(place, shown):
    for read in (describe, read_pipeline):
        with refused(f"the path of a model's folder. Received: {shown}."):
            read(place)


def test_another_family_is_refused(fake):
    (fake / "assets" / "pipeline.json").write_text('{"family": "toy"}')
    with refused(match="an export of vision.*toy"):
        read_pipeline(fake, "vision")
    with refused("size in pipeline.json"):
        read_pipeline(fake)["size"]


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_an_unreadable_description_is_one_line(fake, text):
    (fake / "assets" / "pipeline.json").write_bytes(text.encode("latin-1"))
    with refused("Export the model again"):
        read_pipeline(fake)


def test_a_damaged_export_is_one_line(fake, tmp_path):
    with refused("readable SavedModel"):
        load_saved_model(fake)
    (fake / "assets" / "pipeline.json").unlink()
    with refused("that this project exported"):
        read_pipeline(fake)
    with refused("which does not exist"):
        read_pipeline(tmp_path / "nowhere")


def test_the_hash_is_over_names_and_contents_of_all_that_counts(fake):
    seen = [source_hash(fake)]
    assert source_hash(fake) == seen[0]
    for name in ("saved_model.pb", "variables/variables.index", "assets/pipeline.json"):
        (fake / name).write_text(json.dumps({"changed": name}))
        seen.append(source_hash(fake))
    (fake / "variables" / "variables.index").rename(fake / "variables" / "variables.data")
    seen.append(source_hash(fake))
    assert len(set(seen)) == 5
    (fake / "CARD.md").write_text("beside")
    assert source_hash(fake) == seen[-1]
