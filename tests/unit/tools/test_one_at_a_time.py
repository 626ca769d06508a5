"""What several processes want to make in the same place is made by one at a time."""

import errno
import fcntl
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.support.errors import refused
from tools.conversion import backends
from tools.conversion.converter import convert
from tools.conversion.request import ConversionRequest
from tools.files import alone_in, alone_in_new, one_at_a_time
from tools.inference.runner import load

COUNT_UP = """
import pathlib, sys, time
from tools.files import one_at_a_time
place = pathlib.Path(sys.argv[1])
for _ in range(20):
    with one_at_a_time(place):
        number = int(place.read_text()) if place.exists() else 0
        time.sleep(0.001)
        place.write_text(str(number + 1))
"""


def test_processes_take_turns_and_leave_no_lock(tmp_path, project):
    place = tmp_path / "new" / "count"
    command = [sys.executable, "-c", COUNT_UP, str(place)]
    running = [subprocess.Popen(command, cwd=project) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert place.read_text() == "60"
    assert list(place.parent.iterdir()) == [place]


def test_an_error_ends_the_turn(tmp_path):
    for _ in range(2):
        with refused("room and permission"), one_at_a_time(tmp_path / "a"):
            with one_at_a_time(tmp_path / "b"):
                pass
            (tmp_path / "file").touch()
            with one_at_a_time(tmp_path / "file" / "below"):
                raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


HOLD = """
import pathlib, sys
from tools.files import alone_in
with alone_in(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_until_its_process_ends_however_that_is(tmp_path, project):
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=project, **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        with refused("in use"), alone_in(folder):
            raise AssertionError
        holder.kill()
    with alone_in(folder), pytest.raises(FileExistsError), alone_in(folder, new=True):
        raise AssertionError
    assert list(folder.iterdir()) == [], "it was there before: it stays, without a lock"


def test_a_folder_that_nothing_was_put_into_is_removed(tmp_path):
    with alone_in(tmp_path / "empty"), alone_in(tmp_path / "filled"):
        (tmp_path / "filled" / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["filled"]
    with refused("room and permission"), alone_in(tmp_path / "filled" / "file"):
        raise AssertionError


def test_new_folders_of_several_roots_have_one_name(tmp_path):
    (tmp_path / "b" / "run").mkdir(parents=True)
    with alone_in_new("run", tmp_path / "a", tmp_path / "b") as places:
        assert places == [tmp_path / "a" / "run-2", tmp_path / "b" / "run-2"]
        assert not (tmp_path / "a" / "run").exists()


@pytest.mark.parametrize("hold", [alone_in, one_at_a_time])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys, hold):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(tmp_path / "run"):
        pass
    assert f"{tmp_path}" in (line := capsys.readouterr().err) and "does not support locks" in line

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with refused("Input/output error"), hold(tmp_path / "run"):
        raise AssertionError


def test_two_that_convert_the_same_at_once_make_it_once(native, tmp_path, monkeypatch):
    backend, made = backends.get("onnxruntime"), []
    save = backend.save
    monkeypatch.setattr(backend, "save", lambda *given: made.append(given[0].name) or save(*given))
    barrier, manifests = threading.Barrier(2), []

    def work():
        barrier.wait()
        request = ConversionRequest("onnxruntime")
        manifests.append(convert(native, tmp_path / "new" / "model", request))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["serving_default"]
    assert sorted(manifest["reused"] for manifest in manifests) == [False, True]
    assert len({manifest["directory"] for manifest in manifests}) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]
    inputs = {"waveforms": np.ones((1, 20), "f"), "lengths": np.array([20], np.int32)}
    assert load(manifests[0]["directory"]).run(inputs)["doubled"].tolist() == [40]
