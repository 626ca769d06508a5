"""Sides of a benchmark: a process, a runtime here, an export; what they are asked, and compared."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.errors import refused
from tests.support.peers import StubPeer, start_process
from tools.benchmark import peer as peers
from tools.benchmark import sides
from tools.benchmark.sides import EAGER, NOISE, PEER, LocalSide, PeerExport, PeerSide
from tools.conversion.protocol import Calibration, Examples
from tools.conversion.request import ConversionRequest, Quantization


def test_a_peer_answers_through_a_pipe(tmp_path, rng):
    process = start_process()
    peer = PeerSide(process, tmp_path)
    for rows in (3, 2):
        inputs = rng.standard_normal((rows, 5)).astype(np.float32)
        peer.take(inputs)
        assert peer.time() == 0.5
        np.testing.assert_array_equal(peer.logits(), 2.0 * inputs)
    assert peer.ask("repeat", "a\nb", [1, {"c": None}]) == ["a\nb", [1, {"c": None}]]
    with refused("code 2"):
        peer.ask("leave")
    with refused("leave the peer out"):
        peer.time()
    process.close()


def test_the_far_end_calls_methods_and_prints_nothing_else(monkeypatch, capsys):
    target = SimpleNamespace(add=lambda a, b: a + b, quiet=lambda: None)
    asked = ['["add", 2, 3]\n', '["quiet"]\n', '["add", "a", "b"]\n']
    monkeypatch.setattr("sys.stdin", asked)
    told = SimpleNamespace(lines=[])
    told.write = told.lines.append
    peers.answer_requests(target, told)
    assert "".join(told.lines).splitlines() == ["[5]", "[null]", '["ab"]']
    assert capsys.readouterr().out == ""


def test_a_peer_that_does_not_reply_in_time_is_ended():
    process = start_process()
    assert process.ask("time", seconds=20.0) == 0.5
    with refused(match=r"a reply of the peer to hang within 0\.2 s.*none.*leave the peer out"):
        process.ask("hang", seconds=0.2)
    with refused("code -9"):
        process.ask("time", seconds=20.0)
    process.close()


PARENT = """
import sys, threading
from tools.benchmark.own_process import OwnProcess
from tools.benchmark.peer import Peer
own = OwnProcess(threading.Event)
peer = Peer([sys.executable, "-c", sys.argv[1]])
threads = [
    threading.Thread(target=own.ask, args=["wait", 600]),
    threading.Thread(target=peer.ask, args=["wait", 600]),
]
for thread in threads:
    thread.start()
print("asked", flush=True)
"""
BUSY = """
import threading
from tools.benchmark.peer import answer_requests, answers
with answers() as stream:
    print("busy", flush=True)  # goes to stderr
    answer_requests(threading.Event(), stream)
"""


def test_busy_processes_end_when_their_parent_is_killed():
    """All processes share the parent's stderr, which ends with the last one of them."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert parent.stdout.readline() == b"asked\n"
    assert parent.stderr.readline() == b"busy\n"
    parent.kill()
    parent.communicate(timeout=30)
    assert parent.returncode == -9


def test_a_peer_may_spin_between_operators(monkeypatch):
    """The quiet settings are ours; in a process of its own they would only slow it down."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("KMP_BLOCKTIME", "0")
    monkeypatch.setenv("OTHER", "kept")
    seen = {}

    def start(command, env, **_):
        seen.update(env)

    monkeypatch.setattr(peers.subprocess, "Popen", start)
    peers.Peer(["true"])
    assert not {"OMP_WAIT_POLICY", "KMP_BLOCKTIME"} & seen.keys()
    assert seen["OTHER"] == "kept"


def test_without_its_packages_or_its_code_no_peer_is_started(monkeypatch, capsys):
    def start(command):
        raise AssertionError(command)

    monkeypatch.setattr(peers, "Peer", start)
    with peers.open_peer("module", ["numpy", "no_such_package"]) as peer:
        assert peer is None
    assert "no no_such_package (`bash run_scripts/setup.sh --peers`" in capsys.readouterr().err
    with peers.open_peer("module", ["numpy"], absent="no checkout") as peer:
        assert peer is None
    assert capsys.readouterr().err == "no checkout: our side runs alone\n"


def test_a_peer_that_was_started_is_closed_whatever_happens(monkeypatch):
    events = []

    class Started:
        def __init__(self, command):
            events.append(command[1:])

        def close(self):
            events.append("closed")

    monkeypatch.setattr(peers, "Peer", Started)
    with pytest.raises(KeyError), peers.open_peer("module", ["numpy"], "--threads=2") as peer:
        assert isinstance(peer, Started)
        raise KeyError
    assert events == [["-m", "module", "--threads=2"], "closed"]


def test_a_local_side_runs_what_it_was_fed_last():
    ran = []

    def run(inputs):
        ran.append(inputs)
        return {"y": inputs["x"] + 1}

    side = LocalSide(run, lambda x: {"x": 10 * x}, lambda outputs: outputs["y"])
    side.take(np.array([1]))
    side.take(np.array([2]))
    assert ran == []
    assert 0 <= side.time() < 10
    assert side.logits() == [21]
    assert ran == [{"x": [20]}, {"x": [20]}]


def test_the_first_call_is_for_the_peer_then_its_export_once(tmp_path, monkeypatch):
    calls = []

    class Recorded(StubPeer):
        def build(self, *model):
            calls.append(("build", *model))

        def export(self, path, inputs, outputs):
            assert self.inputs.shape == (1, 4)
            calls.append(("export", inputs, outputs))
            Path(path).write_text("graph")

    opened = []

    class Backend:
        def open(path, described):
            opened.append((path.read_text(), described["small"]))
            return lambda: lambda inputs: {"out": 3 * inputs["in"]}

    monkeypatch.setattr(sides.backends, "get", lambda name: Backend)
    ours = {EAGER: object(), "a fp32": object()}
    export = PeerExport(
        tmp_path / "peer.onnx",
        np.zeros((1, 4)),
        "in",
        "out",
        lambda x: {"in": x},
        lambda outputs: outputs["out"],
    )
    for exported in (1, 0):
        calls.clear()
        peer = Recorded()
        found = sides.open_sides(ours, peer, ("sizes", "weights"), export, names=["a", "b"])
        assert calls == [("build", "sizes", "weights"), ("export", "in", "out")][: 1 + exported]
    assert list(found) == [PEER, *ours, *map(sides.export_name, "ab")]
    assert found[PEER] is peer
    assert opened == [("graph", False)] * 4
    found[sides.export_name("b")].take(np.ones(2))
    np.testing.assert_array_equal(found[sides.export_name("b")].logits(), [3, 3])
    assert [x.name for x in tmp_path.iterdir()] == ["peer.onnx"]
    assert sides.open_sides(ours, None, (), export, names=["a"]) == ours


def test_our_sides_are_the_runtimes_by_precision_and_by_settings(tmp_path, monkeypatch):
    requests, loaded = {}, []

    def convert(native, place, request, calibration):
        requests[place.name] = request
        assert (native, calibration) == ("native", data)
        return {"directory": str(place)}

    monkeypatch.setattr(sides, "convert", convert)
    monkeypatch.setattr(sides, "load", lambda place: loaded.append(place) or f"runs {place}")
    data = Calibration("made up", 1, True, lambda: Examples([]))
    shapes = ConversionRequest(batch=(2, 7))
    values = SimpleNamespace(
        quantize_algo="eqnm",
        quantize_type="asym",
        quantize_granularity="per_axis",
        keep_in_float="block_0/x,-head",
        backends=["openvino", "onnxruntime"],
        precisions=["fp32", "int8_fp32"],
    )
    found = sides.open_runners("native", tmp_path, values, shapes, calibration=data)
    int8 = ["linear symm per_tensor", "eqnm asym per_axis -block_0/x +head"]
    kinds = ["fp32", *(f"int8_fp32 {x}" for x in int8)]
    assert list(found) == [EAGER, *(f"{b} {kind}" for b in values.backends for kind in kinds)]
    assert found[EAGER] == "runs native"
    assert len(set(loaded)) == 7
    for name, runner in list(found.items())[1:]:
        backend, precision, *settings = name.split()
        request = requests[Path(runner.removeprefix("runs ")).name]
        assert (request.backend, request.precision, request.batch) == (backend, precision, (2, 7))
        default = Quantization() if settings == int8[0].split() else None
        asked = Quantization("eqnm", "asym", "per_axis", ("block_0/x", "-head"))
        assert request.quantization == ((default or asked) if settings else None)
    # Settings like the default ones make no second side; a precision that is not asked for none.
    values.quantize_algo, values.quantize_type = "linear", "symm"
    values.quantize_granularity, values.keep_in_float = "per_tensor", ""
    values.backends = ["openvino"]
    found = sides.open_runners("native", tmp_path, values, shapes, calibration=data)
    assert list(found) == [EAGER, "openvino fp32", f"openvino int8_fp32 {int8[0]}"]
    values.precisions = ["int8_fp32"]
    assert list(sides.open_runners("native", tmp_path, values, shapes, calibration=data))[1:] == [
        f"openvino int8_fp32 {int8[0]}"
    ]


def test_answers_are_those_of_every_side_and_of_noise_on_the_inputs(rng):
    scale = 5.0

    def side(factor):
        return LocalSide(
            lambda inputs: {"y": factor * inputs["x"]},
            lambda x: {"x": x},
            lambda outputs: outputs["y"],
        )

    batches = [scale * rng.standard_normal((n, 3000)).astype(np.float32) for n in (2, 1)]
    found = sides.answers({"a": side(2), EAGER: side(3)}, batches, "sounds")
    *names, noisy = found
    assert names == ["a", EAGER]
    assert noisy == f"{EAGER}, 0.1% noise on sounds"
    for factor, name in ((2, "a"), (3, EAGER)):
        for batch, answer in zip(batches, found[name], strict=True):
            np.testing.assert_array_equal(answer, factor * batch)
    for batch, answer in zip(batches, found[noisy], strict=True):
        noise = answer / 3 - batch
        assert noise.std() == pytest.approx(NOISE * scale, rel=0.1)
        assert abs(noise.mean()) < 0.1 * NOISE * scale


def test_relative_errors_are_of_norms():
    reference = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert sides.relative_error(reference, reference) == 0.0
    assert sides.relative_error(reference + np.diag([1.0, 0.0]), reference) == 0.2
    assert sides.relative_error(2 * reference, reference) == 1.0
    assert json.dumps(sides.relative_error(reference.astype("f"), reference)) == "0.0"
