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
    graph, openvino_options, execution, expected
):
    backends.get("openvino").open(graph, {"small": False}, execution)
    (options,) = openvino_options
    assert int(options.pop("CPU_RUNTIME_CACHE_CAPACITY")) < 1000
    assert (options.pop("PERFORMANCE_HINT"), options.pop("INFERENCE_PRECISION_HINT")) == (
        "LATENCY",
        "f32",
    )
    assert options == expected


@pytest.mark.parametrize("threads", [None, 1])
def test_onnxruntime_is_told_the_threads(graph, onnxruntime_threads, threads):
    backends.get("onnxruntime").open(graph, {"small": False}, Execution(threads))
    assert onnxruntime_threads == [threads or 0]


@pytest.mark.parametrize(
    ("shape", "plans"), [([3, 40], True), ([[1, 3], 40], False), ([3, [10, 40]], False)]
)
def test_onnxruntime_plans_no_memory_for_each_of_many_shapes(graph, monkeypatch, shape, plans):
    module = backends.get("onnxruntime")
    session, found = module.onnxruntime.InferenceSession, []

    def start(model, options, **more):
        found.append(options.enable_mem_pattern)
        return session(model, options, **more)

    monkeypatch.setattr(module.onnxruntime, "InferenceSession", start)
    inputs = [["lengths", "int32", shape[:1]], ["waveforms", "float32", shape]]
    module.open(graph, {"small": False, "inputs": inputs})
    assert found == [plans]
