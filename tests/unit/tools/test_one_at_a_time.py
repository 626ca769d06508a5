"""What several processes want to make in the same place is made by one at a time."""

import subprocess
import sys
import threading

import numpy as np

from tests.support.errors import refused
from tools.conversion import backends
from tools.conversion.converter import convert
from tools.conversion.request import ConversionRequest
from tools.files import one_at_a_time
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
