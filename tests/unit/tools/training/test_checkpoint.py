"""Checkpoints appear whole or not at all, whatever happens to the disk or the writer."""

import errno
import json
import os
import re
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tools.errors import UserError
from tools.training.checkpoint import CheckpointStore, RunFolders, open_checkpoint, restore


def save(store, step, metric=None, values=(1.0, 2.0)):
    groups = {
        "model": {"dense/kernel": tf.Variable(values), "dense/bias": np.float32(step)},
        "average": {"dense/kernel": np.zeros(2)},
        "loss_scale": {},
    }
    state = {"step": step, "metric": metric}
    return store.save(state, groups, {"vocabulary.json": f'["Ä", {step}]'})


def steps(store):
    return [checkpoint.step for checkpoint in store.all()]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep_last=2, keep_best=1)


def test_what_was_saved_can_be_read(store):
    assert store.all() == []
    assert store.latest() is store.best() is None
    saved = save(store, 7, metric=0.5)
    for checkpoint in (saved, store.latest(), store.best(), open_checkpoint(saved.path)):
        assert checkpoint.path == store.directory / "step-00000007"
        assert (checkpoint.step, checkpoint.state["metric"]) == (7, 0.5)
        arrays = checkpoint.arrays("model")
        assert arrays.keys() == {"dense/kernel", "dense/bias"}
        np.testing.assert_array_equal(arrays["dense/kernel"], np.float32([1, 2]))
        assert arrays["dense/bias"] == 7
        assert checkpoint.arrays("average").keys() == {"dense/kernel"}
        assert checkpoint.arrays("loss_scale") == checkpoint.arrays("optimizer") == {}
        assert checkpoint.asset("vocabulary.json") == '["Ä", 7]'


def test_weights_to_evaluate_with_are_the_averages_where_there_are_some(store):
    found = save(store, 7).weights()
    assert found.keys() == {"dense/kernel", "dense/bias"}
    np.testing.assert_array_equal(found["dense/kernel"], [0, 0])
    assert found["dense/bias"] == 7


def test_the_same_step_can_be_saved_again(store):
    save(store, 3)
    save(store, 3, metric=0.25, values=(5.0, 6.0))
    assert names(store.directory) == ["step-00000003"]
    assert store.best().state["metric"] == 0.25
    np.testing.assert_array_equal(store.latest().arrays("model")["dense/kernel"], [5, 6])


def test_the_last_and_the_best_are_kept_however_old(store):
    for step, metric in enumerate([0.9, 0.2, None, 0.4, 0.5, None], start=1):
        save(store, step, metric)
    assert steps(store) == [2, 5, 6]
    assert (store.best().step, store.latest().step) == (2, 6)
    save(store, 7, 0.2)
    assert steps(store) == [6, 7], "of equals the newest is the best"


@pytest.mark.parametrize(("keep_last", "keep_best", "kept"), [(1, 0, [5]), (1, 2, [1, 3, 5])])
def test_how_many_are_kept(tmp_path, keep_last, keep_best, kept):
    store = CheckpointStore(tmp_path, keep_last, keep_best)
    for step, metric in enumerate([0.2, 0.4, 0.1, 0.3, 0.5], start=1):
        save(store, step, metric)
    assert steps(store) == kept


def test_a_metric_that_is_no_number_is_never_the_best(store):
    for step, metric in enumerate([float("nan"), 0.5, float("nan")], start=1):
        save(store, step, metric)
    assert store.best().step == 2


def test_the_largest_metric_is_the_best_where_the_state_says_so(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=2)
    for step, metric in enumerate([0.2, 0.4, 0.1, 0.4, 0.3], start=1):
        state = {"step": step, "metric": metric, "larger_is_better": True}
        store.save(state, {"model": {"x": np.zeros(2)}}, {})
    assert steps(store) == [2, 4, 5]
    assert store.best().step == open_checkpoint(tmp_path).step == 4


def test_the_best_may_have_a_folder_of_their_own(tmp_path):
    store = CheckpointStore(tmp_path / "last", 2, 2, tmp_path / "best")
    for step, metric in enumerate([0.1, 0.4, None, 0.2, 0.5, float("nan")], start=1):
        save(store, step, metric)
    assert names(tmp_path / "last") == ["step-00000005", "step-00000006"]
    assert names(tmp_path / "best") == ["step-00000001", "step-00000004"]
    assert (store.latest().step, store.best().step) == (6, 1)
    np.testing.assert_array_equal(store.best().arrays("model")["dense/kernel"], [1, 2])
    assert open_checkpoint(tmp_path / "best").step == 1
    save(store, 7, 0.0)
    files = [tmp_path / name / "step-00000007" / "arrays.npz" for name in ("last", "best")]
    assert files[0].samefile(files[1]), "the arrays exist once"


def test_the_best_are_copied_where_the_disk_has_no_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = CheckpointStore(tmp_path / "last", 1, 1, tmp_path / "best")
    save(store, 1, 0.5)
    save(store, 2, 0.7)
    assert store.best().path == tmp_path / "best" / "step-00000001"
    np.testing.assert_array_equal(store.best().arrays("model")["dense/kernel"], [1, 2])
    assert store.best().asset("vocabulary.json") == '["Ä", 1]'


def test_a_run_keeps_its_checkpoints_inside_or_the_best_apart(tmp_path):
    inside = RunFolders.inside(tmp_path / "run")
    assert (inside.records, inside.checkpoints) == (tmp_path / "run", inside.best_checkpoints)
    apart = RunFolders(tmp_path, tmp_path / "last", tmp_path / "best")
    for folders, last, best in (
        (inside, tmp_path / "run/checkpoints", tmp_path / "run/checkpoints"),
        (apart, tmp_path / "last", tmp_path / "best"),
    ):
        store = folders.store(keep_last=1, keep_best=2)
        for step, metric in enumerate([0.1, 0.2, 0.3, 0.4], start=1):
            save(store, step, metric)
        kept = {path.parent / path.name for path in (*last.iterdir(), *best.iterdir())}
        wanted = {(last, 4), (best, 1), (best, 2)}
        assert kept == {folder / f"step-{step:08d}" for folder, step in wanted}


def test_no_best_are_kept_where_none_are_asked_for(tmp_path):
    store = CheckpointStore(tmp_path / "last", 1, 0, tmp_path / "best")
    save(store, 1, 0.5)
    assert names(tmp_path / "best") == []


def fails_half_way(code):
    def write_array(file, *_, **__):
        file.write(b"half of it")
        raise OSError(code, "No space left on device")

    return write_array


def test_a_disk_that_fills_leaves_the_previous_checkpoint_intact(store, monkeypatch):
    save(store, 1)
    with monkeypatch.context() as patched:
        patched.setattr(np.lib.format, "write_array", fails_half_way(errno.ENOSPC))
        with refused(match=r"No space left on device.*earlier checkpoints are intact"):
            save(store, 2)
    assert names(store.directory) == ["step-00000001"]
    np.testing.assert_array_equal(store.latest().arrays("model")["dense/kernel"], [1, 2])
    save(store, 2)
    assert steps(store) == [1, 2]


def test_a_failure_while_the_same_step_is_saved_again_keeps_the_first(store, monkeypatch):
    save(store, 1, values=(5.0, 6.0))
    monkeypatch.setattr(np.lib.format, "write_array", fails_half_way(errno.EDQUOT))
    with pytest.raises(UserError):
        save(store, 1)
    np.testing.assert_array_equal(store.latest().arrays("model")["dense/kernel"], [5, 6])


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        result = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if result.returncode:
        pytest.skip(f"cannot mount a small disk: {result.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    store = CheckpointStore(small_disk / "checkpoints", keep_last=5)
    values = np.arange(30000, dtype=np.float32)
    save(store, 1, values=values)
    with pytest.raises(UserError, match="No space left on device"):
        for step in range(2, 5):
            save(store, step, values=values)
    kept = store.latest()
    assert names(store.directory)[-1] == kept.path.name
    np.testing.assert_array_equal(kept.arrays("model")["dense/kernel"], values)


def test_what_a_killed_writer_left_is_ignored_and_cleaned_up(store):
    save(store, 1)
    for name in (".unfinished-step-00000002", ".unfinished-old-step-00000001"):
        left = store.directory / name
        left.mkdir()
        (left / "state.json").write_text('{"step": 2')
        (left / "arrays.npz").write_bytes(b"PK")
    assert steps(store) == [1]
    assert store.latest().step == 1
    save(store, 2)
    assert names(store.directory) == ["step-00000001", "step-00000002"]


def test_a_step_saved_again_survives_an_earlier_kill(store):
    save(store, 1)
    left = store.directory / ".unfinished-old-step-00000001"
    left.mkdir()
    (left / "state.json").write_text("{}")
    save(store, 1, metric=0.5)
    assert names(store.directory) == ["step-00000001"]
    assert store.latest().state["metric"] == 0.5


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\3\4" + b"\0" * 100, None])
def test_damaged_arrays_are_one_line(store, content):
    checkpoint = save(store, 1)
    file = checkpoint.path / "arrays.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with refused(f"the arrays of a checkpoint in {checkpoint.path}"):
        checkpoint.arrays("model")


@pytest.mark.parametrize("content", [b"", b'{"step": 1', b"\xff\xfe", b"{}", b"[1]"])
def test_a_damaged_state_is_one_line(store, content):
    checkpoint = save(store, 1)
    (checkpoint.path / "state.json").write_bytes(content)
    for path in (checkpoint.path, store.directory.parent):
        with refused(f"a readable state.json in {checkpoint.path}"):
            open_checkpoint(path)


def test_a_damaged_state_is_passed_over_by_name(store, tmp_path, caplog):
    damaged = save(store, 1)
    save(store, 2)
    (damaged.path / "state.json").write_bytes(b'{"step": 1')
    assert [checkpoint.step for checkpoint in store.all()] == [2]
    assert open_checkpoint(tmp_path).step == store.latest_whole().step == 2
    assert str(damaged.path) in caplog.text
    save(store, 3)
    assert caplog.text.count("skipping the damaged checkpoint") == 2, "once for each store"


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_the_newest_that_is_whole_continues(store, tmp_path, caplog, keep):
    save(store, 1)
    file = save(store, 2).path / "arrays.npz"
    assert open_checkpoint(tmp_path, newest=True).step == 2
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    assert open_checkpoint(tmp_path, newest=True).step == 1
    assert str(file.parent) in caplog.text
    (store.directory / "step-00000001" / "arrays.npz").unlink()
    with refused("the arrays of a checkpoint"):
        store.latest_whole()


@pytest.mark.parametrize("content", [None, b"", b'["\xc3', b"[1]"])
def test_a_checkpoint_with_a_damaged_text_file_is_passed_over(store, caplog, content):
    save(store, 1)
    file = save(store, 2).path / "vocabulary.json"
    assert store.latest_whole().step == 2
    file.unlink() if content is None else file.write_bytes(content)
    assert store.latest_whole().step == 1
    assert str(file.parent) in caplog.text and "vocabulary.json" in caplog.text


def test_a_checkpoint_that_does_not_tell_the_sizes_of_its_files_is_taken(store):
    file = save(store, 1).path / "state.json"
    state = json.loads(file.read_text())
    del state["asset_bytes"]
    file.write_text(json.dumps(state))
    assert store.latest_whole().step == 1


def test_a_flipped_bit_is_damage(store):
    save(store, 1)
    file = save(store, 2).path / "arrays.npz"
    content = bytearray(file.read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 4
    file.write_bytes(content)
    assert store.latest_whole().step == 1


def test_a_missing_asset_is_one_line(store):
    with refused("config.yml"):
        save(store, 1).asset("config.yml")


def test_a_run_directory_gives_its_best_else_its_newest(store, tmp_path):
    save(store, 1)
    save(store, 2)
    assert open_checkpoint(tmp_path).step == 2
    save(store, 3, 0.5)
    save(store, 4, 0.7)
    assert open_checkpoint(str(tmp_path)).step == 3
    assert open_checkpoint(tmp_path, newest=True).step == 4
    assert open_checkpoint(tmp_path / "checkpoints" / "step-00000004").step == 4


@pytest.mark.parametrize("name", ["", "nowhere", "file"])
def test_other_places_are_refused(tmp_path, name):
    (tmp_path / "file").write_text("text")
    missing = ", which does not exist" if name == "nowhere" else ""
    with refused(
        f"a run directory or a checkpoint directory. Received: {tmp_path / name}{missing}."
    ):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_a_folder_of_runs_is_answered_with_its_newest_run(tmp_path, inside):
    """As with --checkpoint=CKPT_ROOT, the parent of the folders of vision runs."""
    for age, run in enumerate(("a", "c", "b")):
        save(CheckpointStore(tmp_path / run / inside), 1)
        os.utime(tmp_path / run, (1e9 - age, 1e9 - age))
    with refused(f"{tmp_path}, a folder of runs. Give one, such as {tmp_path}/a."):
        open_checkpoint(tmp_path)


def variables():
    return {
        "kernel": keras.Variable(np.zeros((2, 3), "float32")),
        "count": tf.Variable(0, dtype=tf.int64),
    }


def test_restoring_converts_to_the_type_of_the_variable():
    targets = variables()
    restore(targets, {"kernel": np.ones((2, 3), np.float16), "count": np.array(5)}, "x")
    np.testing.assert_array_equal(targets["kernel"].numpy(), np.ones((2, 3)))
    assert targets["count"].numpy() == 5


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"kernel": None}, "missing: kernel"),
        ({"bias": np.zeros(3)}, "unexpected: bias"),
        ({"kernel": np.ones((3, 2))}, "another shape: kernel [3, 2] for [2, 3]"),
        ({"bias": np.zeros(3), "count": None}, "missing: count; unexpected: bias"),
        ({f"extra_{i}": np.zeros(1) for i in range(8)}, "extra_3, extra_4 and 3 more"),
    ],
)
def test_restoring_takes_all_or_nothing(change, difference):
    targets = variables()
    arrays = {"kernel": np.ones((2, 3)), "count": np.array(5), **change}
    with refused(match=rf"in that checkpoint\. .*{re.escape(difference)}\. "):
        restore(targets, {k: v for k, v in arrays.items() if v is not None}, "that checkpoint")
    assert not np.any(targets["kernel"].numpy())
    assert targets["count"].numpy() == 0
