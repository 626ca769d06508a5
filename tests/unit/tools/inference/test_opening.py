"""Opening a SavedModel through the cache of conversions, whatever state that is in."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.errors import refused
from tools.conversion import backends
from tools.inference.opening import open_runner
from tools.inference.options import RunnerOptions

INPUTS = {"waveforms": np.ones((1, 20), "f"), "lengths": np.array([20], np.int32)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def answer(native):
    """Opens the model as inference does, and gives what it makes of 20 samples."""

    def run(**options):
        options = RunnerOptions(run_eagerly=False, backend="onnxruntime", **options)
        return open_runner(native, options, None).run(INPUTS)["doubled"].tolist()

    return run


def truncate(folder):
    next(folder.rglob("*.onnx")).write_bytes(b"half")


def remove(folder):
    next(folder.rglob("*.onnx")).unlink()


def spoil(folder):
    next(folder.rglob("manifest.json")).write_text("{")


@pytest.mark.parametrize("damage", [truncate, remove, spoil])
def test_a_damaged_conversion_of_the_cache_is_made_again(cache, answer, capsys, damage):
    assert answer() == [40]
    capsys.readouterr()
    assert answer() == [40] and capsys.readouterr().err == "", "it is used again"
    damage(cache)
    assert answer() == [40]
    assert "onverts again" in capsys.readouterr().err
    assert answer() == [40] and capsys.readouterr().err == ""


def test_a_damaged_conversion_in_a_place_of_the_users_is_refused(cache, answer, tmp_path):
    place = str(tmp_path / "own")
    assert answer(converted_savedmodel_dir=place) == [40]
    truncate(tmp_path / "own")
    with refused("Convert it again"):
        answer(converted_savedmodel_dir=place)


def test_auto_in_a_folder_of_the_user_converts_each_runtime_once(
    cache, native, tmp_path, capsys, monkeypatch
):
    made = []
    for name in ("openvino", "onnxruntime"):
        module = backends.get(name)

        def save(*arguments, name=name, save=module.save):
            made.append(name)
            return save(*arguments)

        monkeypatch.setattr(module, "save", save)
    place = tmp_path / "own"
    for batch_size in (2, 8, 1):
        options = RunnerOptions(converted_savedmodel_dir=str(place), batch_size=batch_size)
        assert open_runner(native, options, None).run(INPUTS)["doubled"].tolist() == [40]
        said = capsys.readouterr().err
        assert said.count(" in ") == (batch_size == 2), said
        assert said.count(f": {place}") == (batch_size == 2), said
        assert made == ["openvino", "onnxruntime"]


def test_a_cache_that_cannot_be_written_leaves_a_temporary_folder(
    cache, answer, tmp_path, capsys, monkeypatch
):
    cache.write_text("no folder")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert answer() == [40]
    (made,) = (tmp_path / "temporary").iterdir()
    printed = capsys.readouterr().err
    assert f"room and permission to write {cache}" in printed
    assert f"Converts into {made} until this program ends." in printed
    assert not list(Path(os.fspath(tmp_path)).glob("cache/*"))
    shutil.rmtree(made)
