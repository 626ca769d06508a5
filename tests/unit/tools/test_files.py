"""Files and folders appear whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.errors import refused
from tools.errors import UserError
from tools.files import (
    check_not_input,
    check_writable,
    expand_home,
    is_made_of,
    new_folder,
    one_line,
    result_file,
    scratch_folder,
    to_json,
    write_bytes,
    write_text,
)


def test_a_path_is_one_line_and_one_column_of_output():
    assert one_line("a\nb\tc\rd\x0be\x85f\u2028g\x1b[0m") == (r"a\nb\tc\rd\x0be\x85f\u2028g\x1b[0m")
    plain = "/ä/日本 $'\\x\udcff/" + "".join(map(chr, range(0x20, 0x7F)))
    assert one_line(plain) == plain
    assert one_line(Path("a\nb")) == r"a\nb"


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("~/a b", "/somewhere/a b"),
        ("~/", "/somewhere/"),
        ("~nobody-of-that-name/a", "~nobody-of-that-name/a"),
        *((same, same) for same in ("~", "a/~/b", "./~/b", "", "~a b/c", "--x=~/a")),
    ],
)
def test_the_home_folder_is_put_in_at_the_start_alone(monkeypatch, text, expanded):
    monkeypatch.setenv("HOME", "/somewhere")
    assert expand_home(text) == expanded


def test_a_text_replaces_an_earlier_one_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_text(path, "one")
    write_text(path, "Äther\n")
    assert path.read_bytes() == "Äther\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_bytes_and_line_ends_are_written_as_they_are(tmp_path):
    write_bytes(tmp_path / "a", b"one\r\n\0")
    write_bytes(tmp_path / "a", b"\xff")
    write_text(tmp_path / "b", "one\r\ntwo\n")
    assert (tmp_path / "a").read_bytes() == b"\xff"
    assert (tmp_path / "b").read_bytes() == b"one\r\ntwo\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_names_that_are_no_utf_8_come_back_as_they_are(tmp_path):
    write_text(tmp_path / "a", b"\xff\xfe".decode("utf-8", "surrogateescape"))
    assert (tmp_path / "a").read_bytes() == b"\xff\xfe"


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_a_failure_leaves_the_earlier_text_and_is_one_line(tmp_path, monkeypatch, failing):
    path = tmp_path / "a"
    write_text(path, "one")

    def fail(self, *_, **__):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, failing, fail)
    with refused(match=f"{path}.*No space left on device"):
        write_text(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("room and permission to write"):
        write_text(tmp_path / "file" / "a", "")


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("a/crop_0.875", "a/crop_0.875.tsv"),
        ("a/crop_0.96", "a/crop_0.96.tsv"),
        ("a.json", "a.tsv"),
        ("a.b/c.JSON", "a.b/c.tsv"),
        ("a.tsv", "a.tsv"),
        ("v1.2.json", "v1.2.tsv"),
        ("plain", "plain.tsv"),
        (".json", ".json.tsv"),
    ],
)
def test_known_suffixes_alone_give_way(name, table):
    assert result_file(Path(name), ".tsv") == Path(table)


def test_json_has_no_nan():
    """Anything that is read by others: numbers that are none are null, however deep they lie."""
    content = {"a": float("nan"), "b": [1.5, (float("inf"), "NaN")], "c": {"d": -float("inf")}}
    content["e"] = np.float64("nan")

    def refuse(word):
        raise AssertionError(word)

    read = json.loads(to_json(content, indent=1), parse_constant=refuse)
    assert read == {"a": None, "b": [1.5, [None, "NaN"]], "c": {"d": None}, "e": None}
    plain = {"a": [1, 2.5, None, True, "x"], "b": {}}
    assert to_json(plain, indent=2, sort_keys=True) == json.dumps(plain, indent=2, sort_keys=True)


def test_a_scratch_folder_lies_beside_and_ends_with_its_block(tmp_path):
    with scratch_folder(tmp_path / "new" / "a") as folder:
        assert folder.is_relative_to(tmp_path / "new") and not list(folder.iterdir())
        (folder / "b").write_text("one")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("failing", ["mkdir", "write_text"])
def test_a_scratch_folder_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, failing):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(*((os, "mkdir") if failing == "mkdir" else (Path, failing)), fail)
    path = tmp_path / "model.onnx"
    wanted = refused(match=f"permission to write {path}.*Permission denied")
    with wanted, scratch_folder(path) as folder:
        (folder / "a").write_text("one")
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_when_its_block_has_ended(tmp_path):
    with new_folder(tmp_path / "above" / "new") as folder:
        (folder / "a").write_text("one")
        assert not (tmp_path / "above" / "new").exists()
    assert (tmp_path / "above" / "new" / "a").read_text() == "one"
    assert [path.name for path in (tmp_path / "above").iterdir()] == ["new"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_block_that_fails_leaves_what_there_was(tmp_path, problem):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").write_text("one")
    expected = UserError if isinstance(problem, OSError) else KeyboardInterrupt
    with pytest.raises(expected), new_folder(path, replace=True) as folder:
        (folder / "a").write_text("two")
        raise problem
    assert (path / "a").read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_content_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "folder"
    for name, replace in (("a", False), ("b", True)):
        with new_folder(path, replace) as folder:
            (folder / name).write_text("")
    assert [file.name for file in path.iterdir()] == ["b"]
    with refused("another folder"), new_folder(path):
        pass
    assert [file.name for file in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").write_text("one")
    rename = Path.rename

    def fail(self, target):
        if self.suffix == ".unfinished":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with refused(match=f"{path}.*Permission denied"), new_folder(path, replace=True) as folder:
        (folder / "b").write_text("two")
    assert [file.name for file in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_known_by_what_it_was_made_of(tmp_path):
    record, arguments = tmp_path / "made" / "arguments.json", {"seed": 1, "sizes": [2, 3]}
    assert not is_made_of(record, arguments, "sounds")
    record.parent.mkdir()
    assert not is_made_of(record, arguments, "sounds"), "it is empty"
    record.write_text(json.dumps(arguments))
    assert is_made_of(record, arguments, "sounds")
    with refused(f"{record.parent} with sounds made with other arguments"):
        is_made_of(record, {**arguments, "seed": 2}, "sounds")
    for other in ("no JSON", None):
        record.unlink() if other is None else record.write_text(other)
        (record.parent / "a").write_text("")
        with refused(f"{record.parent} with other files"):
            is_made_of(record, arguments, "sounds")
    with refused(f"the file {record.parent / 'a'}"):
        is_made_of(record.parent / "a" / "arguments.json", arguments, "sounds")


@pytest.mark.parametrize("place", ["folder", "pipe"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, place):
    path = tmp_path / place
    path.mkdir() if place == "folder" else os.mkfifo(path)
    with refused(match=f"regular file.*{place}"):
        write_text(path, "text")
    assert not path.is_file()


def test_whether_a_place_can_be_written_is_told_in_advance(tmp_path):
    path = tmp_path / "new" / "a"
    check_writable(path)
    assert list(path.parent.iterdir()) == []
    write_text(path, "one")
    check_writable(path)
    assert path.read_text() == "one"
    for bad in (path / "b", tmp_path / "new"):
        with refused():
            check_writable(bad)
    assert [x.name for x in path.parent.iterdir()] == ["a"]


def test_a_result_is_no_input_by_any_name(tmp_path):
    path, other, link = tmp_path / "a", tmp_path / "b", tmp_path / "link"
    inputs = [tmp_path, tmp_path / "missing", path]
    check_not_input(path, inputs)
    path.write_text("")
    other.write_text("")
    link.symlink_to(path)
    check_not_input(other, inputs)
    for place in (path, link, tmp_path / "x" / ".." / "a"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with refused("a result file that is no input"):
            check_not_input(place, inputs)


def test_what_killed_processes_left_is_removed_and_what_is_written_stays(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    place = tmp_path / "a[1]"
    left = [tmp_path / ".a[1].0a1b2c3d.unfinished", tmp_path / f".a[1].{ended.pid}.unfinished"]
    others = [
        tmp_path / f".a[1].{os.getppid()}.unfinished",  # its process lives
        tmp_path / ".a1.0a1b2c3d.unfinished",  # of another place
        tmp_path / ".a[1].0a1b2c3e.unfinished",  # fresh
        tmp_path / ".a[1].0a1b2c3f.old",  # holds what was there before
    ]
    for path in (left[0], *others[1:]):
        path.mkdir()
        (path / "file").touch()
    left[1].touch()
    others[0].touch()
    for path in (*left, *others[:2], others[3]):
        os.utime(path, (0, 0))
    with new_folder(place) as first:
        os.utime(first, (0, 0))
        with new_folder(place, replace=True):
            assert first.exists(), "it is being written"
        shutil.rmtree(place)
    assert sorted(tmp_path.iterdir()) == sorted([place, *others])
    (tmp_path / "b").mkdir()
    stale = tmp_path / f".text.{ended.pid}.unfinished"
    stale.touch()
    os.utime(stale, (0, 0))
    write_text(tmp_path / "text", "t")
    assert not stale.exists()
