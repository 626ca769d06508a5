"""Weights that are exported into the user's cache when they are opened."""

import threading
import time

import pytest

from tests.support.errors import refused
from tools.inference.pretrained import chosen_source, exported_model


class Exporter:
    """An export function that counts its calls."""

    def __init__(self):
        self.sources = []

    def __call__(self, source, output_dir):
        self.sources.append(source)
        time.sleep(0.01)  # long enough for another thread to come in between
        output_dir.mkdir(parents=True)
        (output_dir / "saved_model.pb").write_bytes(b"graph")


@pytest.fixture
def export(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Exporter()


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "deeper").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deeper" / "weights").write_text("1 2 3")
    return folder


def test_a_source_is_exported_once(export, source, tmp_path, capsys):
    place = exported_model(source, "toy", export)
    assert (place / "saved_model.pb").is_file()
    assert place.is_relative_to(tmp_path / "cache")
    assert capsys.readouterr().err == f"exporting {source} to {place}\n"
    assert exported_model(str(source), "toy", export) == place
    assert export.sources == [source]
    assert capsys.readouterr().err == ""


def test_families_do_not_share_an_export(export, source):
    assert exported_model(source, "toy", export) != exported_model(source, "boat", export)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "deeper" / "weights").write_text("1 2 4"),
        lambda folder: (folder / "new").touch(),
        lambda folder: (folder / "config.json").rename(folder / "other.json"),
        lambda folder: (folder / "deeper").rename(folder / "elsewhere"),
    ],
)
def test_a_changed_source_is_exported_again(export, source, change):
    before = exported_model(source, "toy", export)
    change(source)
    assert exported_model(source, "toy", export) != before


def test_hidden_files_are_no_part_of_a_source(export, source):
    before = exported_model(source, "toy", export)
    (source / ".git").mkdir()
    (source / ".git" / "index").write_text("a")
    (source / ".lock").touch()
    assert exported_model(source, "toy", export) == before


def test_a_source_may_be_a_file(export, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_text("1")
    before = exported_model(file, "toy", export)
    assert exported_model(file, "toy", export) == before
    file.write_text("2")
    assert exported_model(file, "toy", export) != before


def test_exported_and_converted_models_are_returned_as_they_are(export, tmp_path):
    for name in ("saved_model.pb", "manifest.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("{}")
        assert exported_model(folder, "toy", export) == folder
    assert exported_model(tmp_path / "absent", "toy", export) == tmp_path / "absent"
    assert export.sources == []


def test_an_export_that_failed_is_tried_again(export, source):
    def fail(*_):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        exported_model(source, "toy", fail)
    assert (exported_model(source, "toy", export) / "saved_model.pb").is_file()


def test_two_that_open_one_source_export_it_once(export, source):
    places = []
    threads = [
        threading.Thread(target=lambda: places.append(exported_model(source, "toy", export)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places[0] == places[1]
    assert len(export.sources) == 1


def test_a_cache_that_cannot_be_written_is_replaced(export, source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    place = exported_model(source, "toy", export)
    assert (place / "saved_model.pb").is_file()
    assert exported_model(source, "toy", export) == place


def test_one_of_two_flags():
    assert chosen_source("a", None) == "a"
    assert chosen_source(None, "hf:a/b") == "hf:a/b"
    assert chosen_source(None, None) is None
    with refused("--native_savedmodel_dir or --pretrained"):
        chosen_source("a", "b")
