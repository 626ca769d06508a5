"""The records of a run, also after it was killed in the middle of a line."""

import importlib.metadata
import json
import resource
import subprocess

import pytest
import tensorflow as tf

from tests.support.errors import refused
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


@pytest.mark.parametrize(
    "left",
    ["", '{"step": 3, "epo', '{"step": 3', "\0\0\0", "\n", "1\n", '{"epoch": 1}\n', "\udcff"],
)
def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path, left):
    log(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a", errors="surrogateescape") as file:
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


def test_a_file_that_cannot_grow_is_one_line(tmp_path):
    records = RunLog(tmp_path, 0, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with refused(match=rf"{tmp_path}.*File too large.*from the last checkpoint"):
            records.write(1, 0, {"train/loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    records.close()


@pytest.mark.parametrize("at", ["write", "close"])
def test_what_tensorboard_cannot_write_is_one_line(tmp_path, monkeypatch, at):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "events.out:\nNo space left on device")

    records = RunLog(tmp_path, 0, 1)
    if at == "write":
        monkeypatch.setattr(tf.summary, "scalar", full)
    else:
        writer = tf.summary.create_file_writer(str(tmp_path / "other"))
        monkeypatch.setattr(type(writer), "close", full)
    with refused(match=rf"{tmp_path}.*No space left on device.*from the last checkpoint"):
        records.write(1, 0, {"train/loss": 1.0})
        records.close()
    if at == "write":
        records.close()


def scalars(directory):
    """What TensorBoard shows: (name, step, value)."""
    (file,) = (directory / "tensorboard").iterdir()
    found = []
    for record in tf.compat.v1.io.tf_record_iterator(str(file)):
        event = tf.compat.v1.Event.FromString(record)
        for value in event.summary.value:
            found.append((value.tag, event.step, float(tf.make_ndarray(value.tensor))))
    return found


def test_tensorboard_gets_the_same_values(tmp_path):
    log(tmp_path, [1, 3])
    assert scalars(tmp_path) == [("train/loss", 1, 0.25), ("train/loss", 3, 0.75)]


@pytest.mark.parametrize(
    ("first_step", "every", "printed"), [(0, 2, [2, 4]), (2, 3, [3, 6]), (0, 0, [])]
)
def test_lines_come_with_every_so_many_steps_of_the_run(
    tmp_path, capsys, first_step, every, printed
):
    records = RunLog(tmp_path, first_step, 9, print_every_steps=every)
    for _ in range(5):
        records.advance({"loss": "1", "samples/s": "9"})
    records.close()
    text = capsys.readouterr().err
    assert [n for n in range(1, 9) if f"step {n}: loss 1, samples/s 9\n" in text] == printed


def test_provenance_names_versions():
    versions = provenance()
    assert versions["tensorflow"].startswith("2.")
    assert {"python", "keras", "horovod", "git"} <= versions.keys()


def test_provenance_of_code_outside_git_and_of_packages_that_are_absent(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(subprocess, "run", no_git)
    versions = provenance()
    assert versions["git"] == "unknown"
    assert versions["keras"] == versions["horovod"] == "absent"
