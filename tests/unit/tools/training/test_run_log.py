"""The records of a run, also after it was killed in the middle of a line."""

import io
import json

import pytest

from tools.errors import UserError
from tools.training.run_log import RunLog, provenance


def log(directory, lines, first_step=0):
    records = RunLog(directory, first_step, 10)
    for step in lines:
        records.write(step, step // 2, {"train/loss": step / 4})
    records.close()


def read(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_line_for_every_write(tmp_path):
    log(tmp_path, [1, 2, 3])
    assert read(tmp_path) == [
        {"step": 1, "epoch": 0, "train/loss": 0.25},
        {"step": 2, "epoch": 1, "train/loss": 0.5},
        {"step": 3, "epoch": 1, "train/loss": 0.75},
    ]
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_resumed_run_takes_later_lines_back(tmp_path):
    log(tmp_path, range(1, 7))
    log(tmp_path, [5], first_step=4)
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("left", ["", '{"step": 3, "epo', '{"step": 3', "\0\0\0", "\n"])
def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path, left):
    log(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(left)
    log(tmp_path, [4], first_step=3)
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 4]


def test_a_line_whose_end_a_kill_cut_off_stays_a_line(tmp_path):
    log(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    log(tmp_path, [3], first_step=2)
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3]


def test_values_that_json_has_no_numbers_for_are_null(tmp_path):
    records = RunLog(tmp_path, 0, 1)
    records.write(1, 0, {"a": float("nan"), "b": float("inf"), "c": 1.5, "d": 2})
    records.close()
    assert read(tmp_path) == [{"step": 1, "epoch": 0, "a": None, "b": None, "c": 1.5, "d": 2}]


def test_without_a_directory_it_is_silent(capfd):
    records = RunLog(None, 0, 3)
    records.advance({"loss": "1"})
    records.write(1, 0, {"train/loss": 1.0})
    records.say("a line")
    records.close()
    assert capfd.readouterr() == ("", "")


def test_progress_and_lines_go_to_stderr(tmp_path, capsys):
    records = RunLog(tmp_path, 2, 3)
    records.say("a line")
    records.advance({"loss": "0.125"})
    records.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a line\n" in printed.err
    assert "3/3" in printed.err


def test_a_full_disk_is_one_line(tmp_path):
    records = RunLog(tmp_path, 0, 1)
    records._file.close()
    records._file = io.FileIO("/dev/full", "ab")
    with pytest.raises(UserError, match=r"/dev/full.*No space left.*from the last checkpoint"):
        records.write(1, 0, {"train/loss": 1.0})
    records.close()


def test_provenance_names_versions():
    versions = provenance()
    assert versions["tensorflow"].startswith("2.")
    assert {"python", "keras", "horovod", "git"} <= versions.keys()
