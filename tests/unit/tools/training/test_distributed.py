"""One process, two processes under horovodrun, and what each takes of the machine."""

import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tests.support.processes import run_ranks
from tools.errors import UserError
from tools.training import distributed
from tools.training.distributed import SingleProcess, claim_devices, from_first_rank, start

LAUNCHER_VARIABLES = ["HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"]
WORKER = """
import json, sys
from pathlib import Path

import tensorflow as tf

from tools.errors import UserError
from tools.training import distributed
from tools.training.task import Position

processes = distributed.start()
devices = distributed.claim_devices(processes, use_gpu=False)
rank = processes.rank


@tf.function
def sums(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        vector, scalar = processes.sum([x, tf.reduce_sum(x)])
        loss = tf.reduce_sum(vector) * (rank + 1.0)
    return vector, scalar, tape.gradient(loss, x)


vector, scalar, gradient = sums(tf.constant([1.0, 10.0]) * (rank + 1))
mean, given = tf.Variable([rank, 4.0 * rank]), tf.Variable([rank + 7])
processes.mean_variables([mean])
processes.mean_variables([])
processes.broadcast_variables([given])
objects = processes.broadcast_object(
    (UserError(f"of rank {rank}"), Position(rank), None) if rank == 0 else None
)
found = {
    "kind": type(processes).__name__,
    "place": [rank, processes.size, processes.local_rank, processes.local_size],
    "devices": devices,
    "vector": vector.numpy().tolist(),
    "scalar": float(scalar),
    "gradient": gradient.numpy().tolist(),
    "mean": mean.numpy().tolist(),
    "given": given.numpy().tolist(),
    "objects": [repr(value) for value in objects],
    "gathered": processes.gather_objects(list(range(rank + 1))),
}
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(found))
"""


def test_two_processes(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOROVOD_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    result = subprocess.run(
        ["horovodrun", "-np", "2", sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "kind": "HorovodProcesses",
            "place": [rank, 2, rank, 2],
            "devices": f"rank {rank} of 2 on {threads} CPU thread{'s' if threads > 1 else ''}",
            "vector": [3.0, 30.0],
            "scalar": 33.0,
            "gradient": [3.0, 3.0],
            "mean": [0.5, 2.0],
            "given": [7],
            "objects": ["UserError('of rank 0')", "Position(epoch=0, done=())", "None"],
            "gathered": [[0], [0, 1]],
        }


def test_a_single_process_keeps_everything_as_it_is():
    processes = SingleProcess()
    assert (
        (processes.rank, processes.size) == (processes.local_rank, processes.local_size) == (0, 1)
    )
    variable, value = tf.Variable([1.0, 2.0]), object()
    tensors = [tf.constant([1.0]), tf.constant(2.0)]
    assert processes.sum(tensors) is tensors
    assert processes.broadcast_object(value) is value
    assert processes.gather_objects(value) == [value]
    processes.mean_variables([variable])
    processes.broadcast_variables([variable])
    np.testing.assert_array_equal(variable, [1.0, 2.0])


@pytest.fixture
def launched_by(monkeypatch):
    """Sets what a launcher leaves in the environment; Horovod itself stays asleep."""
    monkeypatch.setattr(distributed, "HorovodProcesses", lambda: "horovod")
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return lambda name: monkeypatch.setenv(name, "0")


def test_horovod_is_found_out_by_the_environment(launched_by):
    assert isinstance(start(), SingleProcess)
    assert start(use_horovod=True) == "horovod"
    launched_by("HOROVOD_RANK")
    assert start() == "horovod"
    assert isinstance(start(use_horovod=False), SingleProcess)


@pytest.mark.parametrize("variable", LAUNCHER_VARIABLES)
def test_every_launcher_is_known(launched_by, variable):
    launched_by(variable)
    assert start() == "horovod"


def test_horovod_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod", None)
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
    with refused(match=r"Horovod.*setup\.sh"):
        start(use_horovod=True)


@pytest.fixture
def horovod(monkeypatch):
    """Stands in for Horovod on rank 3 of 4, the second process of its machine."""
    module = types.ModuleType("horovod.tensorflow")
    module.started = []
    module.init = lambda: module.started.append(os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"])
    for name, value in (("rank", 3), ("size", 4), ("local_rank", 1), ("local_size", 2)):
        setattr(module, name, lambda value=value: value)
    monkeypatch.setitem(sys.modules, "horovod", types.ModuleType("horovod"))
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", module)
    monkeypatch.setattr(sys.modules["horovod"], "tensorflow", module, raising=False)
    return module


def test_a_rank_knows_its_place_among_all_and_on_its_machine(horovod):
    found = start(use_horovod=True)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (3, 4, 1, 2)


def test_ranks_wait_longer_for_each_other_than_gloo_does(horovod, monkeypatch):
    monkeypatch.setenv("HOROVOD_GLOO_TIMEOUT_SECONDS", "1")
    start(use_horovod=True)
    monkeypatch.delenv("HOROVOD_GLOO_TIMEOUT_SECONDS")
    start(use_horovod=True)
    assert horovod.started == ["1", "300"]


def test_a_host_that_cannot_find_itself_is_one_line(horovod, monkeypatch):
    def unknown(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "gethostname", lambda: "island")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with refused(
        "a host name that can be resolved. Received: island. Add the line `127.0.0.1 island`"
    ):
        start(use_horovod=True)
    assert horovod.started == []


def test_what_the_first_rank_makes_is_given_to_all():
    made = []

    def work(processes):
        return from_first_rank(processes, lambda: made.append(processes.rank) or ["a", 1])

    assert run_ranks(3, work) == [["a", 1]] * 3
    assert made == [0]


def test_an_error_of_the_first_rank_ends_all_and_is_told_once():
    def make():
        raise UserError("no room")

    first, *others = run_ranks(3, lambda processes: from_first_rank(processes, make))
    assert isinstance(first, UserError)
    assert str(first) == "no room"
    assert [(type(error), error.code) for error in others] == [(SystemExit, 2)] * 2


class Machine(SingleProcess):
    """The second of two processes of this machine, the third of all."""

    rank, size, local_rank, local_size = 2, 4, 1, 2


@pytest.fixture
def machine(monkeypatch):
    """A machine with some GPUs; what is asked of TensorFlow is only noted."""
    asked = {}

    def make(num_gpus):
        gpus = [tf.config.PhysicalDevice(f"GPU:{i}", "GPU") for i in range(num_gpus)]
        config, threading = tf.config, tf.config.threading
        note = asked.__setitem__
        monkeypatch.setattr(config, "list_physical_devices", lambda kind: gpus)
        monkeypatch.setattr(config, "set_visible_devices", lambda d, kind: note("visible", d))
        monkeypatch.setattr(
            config.experimental, "set_memory_growth", lambda d, on: note("growth", (d, on))
        )
        for kind in ("intra", "inter"):
            name = f"set_{kind}_op_parallelism_threads"
            monkeypatch.setattr(threading, name, lambda n, kind=kind: note(kind, n))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
        return asked

    return make


@pytest.mark.parametrize("use_gpu", [None, True])
def test_each_process_takes_the_gpu_of_its_local_rank(machine, use_gpu):
    asked = machine(2)
    assert claim_devices(Machine(), use_gpu) == "rank 2 of 4 on GPU:1"
    assert asked["visible"].name == "GPU:1"
    assert asked["growth"] == (asked["visible"], True)
    assert "intra" not in asked


@pytest.mark.parametrize(("num_gpus", "use_gpu"), [(0, None), (0, False), (1, None), (2, False)])
def test_else_its_share_of_the_cores(machine, num_gpus, use_gpu):
    asked = machine(num_gpus)
    line = "rank 2 of 4 on 2 CPU threads"
    hidden = "; 2 GPUs not used, as asked for" if num_gpus == 2 else ""
    assert claim_devices(Machine(), use_gpu) == line + hidden
    assert asked == {"visible": [], "intra": 2, "inter": 2}


def test_alone_on_its_machine_it_asks_nothing_that_a_started_tensorflow_refuses():
    tf.constant(1.0) + 1.0  # starts the devices, as any earlier work in this process does
    assert claim_devices(SingleProcess(), use_gpu=False).startswith("rank 0 of 1 on ")


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_insisting_on_gpus_that_are_not_there_is_one_line(machine, num_gpus):
    asked = machine(num_gpus)
    with refused(match=f"{num_gpus} visible.*--use_gpu"):
        claim_devices(Machine(), use_gpu=True)
    assert asked == {}
