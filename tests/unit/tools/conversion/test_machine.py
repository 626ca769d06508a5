"""What a conversion knows of the machine, and how a runtime is told to use it."""

import os
from pathlib import Path

import pytest

from tools.conversion import backends, machine
from tools.conversion.protocol import Execution

CPUINFO = """processor : 0
model name\t: Fast 9000
flags\t\t: fpu sse avx2 avx512f avx512_vnni

processor : 1
model name\t: Other
flags\t\t: fpu
"""


def test_a_machine_is_told_by_its_instruction_sets(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: CPUINFO)
    assert machine.machine() == "x86_64 avx2 avx512f avx512_vnni"
    assert machine.processor() == f"Fast 9000, {machine.num_cores()} cores"


def test_a_machine_that_does_not_tell_has_a_name_all_the_same(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr(Path, "read_text", missing)
    assert machine.machine() == "arm64"
    assert machine.processor().startswith("arm64, ")


def test_cores_are_those_that_this_process_may_use():
    assert machine.num_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("execution", "expected"),
    [
        (Execution(), {"ENABLE_HYPER_THREADING": False}),
        (Execution(throughput=True), {"ENABLE_HYPER_THREADING": True}),
        (
            Execution(threads=1),
            {
                "ENABLE_HYPER_THREADING": False,
                "INFERENCE_NUM_THREADS": 1,
                "ENABLE_CPU_PINNING": False,
            },
        ),
    ],
)
def test_openvino_is_told_the_threads_and_keeps_few_kernels(
    graph, monkeypatch, execution, expected
):
    module, told = backends.get("openvino"), []

    class Core(module.openvino.Core):
        def compile_model(self, network, device, options):
            told.append(dict(options))
            return super().compile_model(network, device, options)

    monkeypatch.setattr(module.openvino, "Core", Core)
    module.open(graph, {"small": False}, execution)
    (options,) = told
    assert int(options.pop("CPU_RUNTIME_CACHE_CAPACITY")) < 1000
    assert (options.pop("PERFORMANCE_HINT"), options.pop("INFERENCE_PRECISION_HINT")) == (
        "LATENCY",
        "f32",
    )
    assert options == expected


@pytest.mark.parametrize("threads", [None, 1])
def test_onnxruntime_is_told_the_threads(graph, monkeypatch, threads):
    module, told = backends.get("onnxruntime"), []
    session = module.onnxruntime.InferenceSession

    def start(model, options, **more):
        told.append(options.intra_op_num_threads)
        return session(model, options, **more)

    monkeypatch.setattr(module.onnxruntime, "InferenceSession", start)
    module.open(graph, {"small": False}, Execution(threads))
    assert told == [threads or 0]
