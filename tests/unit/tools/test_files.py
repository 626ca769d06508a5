"""Files and folders appear whole or not at all."""

import os
from pathlib import Path

import pytest

from tools.errors import UserError
from tools.files import check_writable, new_folder, write_text


def test_a_text_replaces_an_earlier_one_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_text(path, "one")
    write_text(path, "Äther\n")
    assert path.read_bytes() == "Äther\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


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
    with pytest.raises(UserError, match=f"{path}.*No space left on device") as caught:
        write_text(path, "two")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="room and permission to write"):
        write_text(tmp_path / "file" / "a", "")


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
    with pytest.raises(UserError, match="another folder"), new_folder(path):
        pass
    assert [file.name for file in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["folder", "pipe"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, place):
    path = tmp_path / place
    path.mkdir() if place == "folder" else os.mkfifo(path)
    with pytest.raises(UserError, match=f"regular file.*{place}"):
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
        with pytest.raises(UserError):
            check_writable(bad)
    assert [x.name for x in path.parent.iterdir()] == ["a"]
