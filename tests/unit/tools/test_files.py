"""Text files appear whole or not at all."""

from pathlib import Path

import pytest

from tools.errors import UserError
from tools.files import write_text


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
