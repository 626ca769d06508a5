"""Times of sides in turn, the ratios between them, and how a benchmark prints both."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.errors import refused
from tools.benchmark import comparison, turns
from tools.benchmark.sides import EAGER, PEER, export_name
from tools.config.command_line import CommandLine

MEDIANS = {
    PEER: 1000.0,
    EAGER: 2000.0,
    "openvino fp32": 250.0,
    "onnxruntime int8_fp32 linear": 400.0,
    export_name("openvino"): 500.0,
    export_name("onnxruntime"): 800.0,
}


def times(**more):
    return {
        name: {"median_ms": x, "p95_ms": 2 * x, "fps": 4e3 / x, **more}
        for name, x in MEDIANS.items()
    }


def test_ratios_are_those_of_the_medians_in_the_same_report():
    found = times()
    comparison.add_ratios(found)
    speedups = {name: row.get("speedup") for name, row in found.items()}
    assert speedups == {name: 1000.0 / x for name, x in MEDIANS.items() if name != PEER} | {
        PEER: None
    }
    against = {
        name: row["against_export"] for name, row in found.items() if "against_export" in row
    }
    # Each runtime is held against what it makes itself of the other export.
    assert against == {"openvino fp32": 2.0, "onnxruntime int8_fp32 linear": 2.0}


def test_without_a_peer_there_are_no_ratios():
    found = times()
    del found[PEER], found[export_name("openvino")], found[export_name("onnxruntime")]
    expected = {name: dict(row) for name, row in found.items()}
    comparison.add_ratios(found)
    assert found == expected


def test_what_is_printed_stands_in_the_report(capsys):
    found = times()
    comparison.add_ratios(found)
    comparison.show_times("toy", 4, found)
    title, header, *lines = capsys.readouterr().out.strip().splitlines()
    assert title == "toy, batch 4"
    assert PEER in header
    for (name, row), line in zip(found.items(), lines, strict=True):
        assert line.startswith(name)
        numbers = [f"{row[x]:.1f}" for x in ("median_ms", "p95_ms", "fps")]
        numbers += [f"{row[x]:.2f}" if x in row else "-" for x in ("speedup", "against_export")]
        assert line.removeprefix(name).split() == numbers


def parsed(*arguments, default="1,8"):
    flags = CommandLine("benchmark.toy", "Times a toy.")
    comparison.add_flags(
        flags, default, "Data.", "none", samples="Samples", table="Prints a table."
    )
    return comparison.parse(flags, list(arguments), default, {"calibration_samples": 16})


def test_flags_are_lists_and_a_table_has_batches_of_its_own():
    assert parsed().batches == [1, 8]
    assert parsed("--table").batches == [1, 4, 8, 16, 32, 64]
    assert parsed("--table", "--batch_sizes=3,5").batches == [3, 5]
    values = parsed("--backends=onnxruntime", "--precisions=int8_fp32")
    assert (values.backends, values.precisions) == (["onnxruntime"], ["int8_fp32"])
    assert parsed().precisions == ["fp32", "int8_fp32"]
    assert parsed("--calibration_samples=16").calibration_samples == 16
    for flags, message in (
        (["--calibration_samples=15"], "--calibration_samples >= 16"),
        (["--loop=0"], "--loop >= 1"),
        (["--precisions=fp16"], "fp16"),
    ):
        with refused(message):
            parsed(*flags)


def test_a_report_says_how_it_was_measured(capsys):
    values = SimpleNamespace(threads=3, loop=7, warmup_seconds=0.5, data_dir=None)
    found = comparison.described(values, {"torch": "9.9"})
    assert (found["threads"], found["loop"], found["warmup_seconds"]) == (3, 7, 0.5)
    assert found["data"] == "made up"
    assert found["versions"]["torch"] == "9.9"
    assert found["versions"]["numpy"] == np.__version__
    assert capsys.readouterr().out.startswith("3 threads, medians of 7 rounds in turn; numpy ")
    values.data_dir = "/d"
    assert comparison.described(values, {})["data"] == "/d"


def test_sides_run_in_turn_after_their_warm_up_and_give_their_own_times():
    calls, answers = (
        [],
        {"a": iter([9.0, 8.0, 1.0, 3.0, 2.0, 100.0]), "b": iter([5.0, 5.0] + [4.0] * 4)},
    )

    def side(name):
        def run():
            calls.append(name)
            return next(answers[name])

        return run

    found = turns.time_in_turn({name: side(name) for name in "ab"}, 6, 4, 0.0)
    assert "".join(calls) == "aabb" + "ab" * 4
    # The warm-up of 9 and 8 seconds does not count.
    assert found["a"] == {
        "median_ms": 2500.0,
        "p95_ms": pytest.approx(1e3 * np.percentile([1.0, 3.0, 2.0, 100.0], 95)),
        "fps": 6 / 2.5,
    }
    assert found["b"] == {"median_ms": 4000.0, "p95_ms": 4000.0, "fps": 1.5}


def test_a_warm_up_lasts_and_a_rest_comes_before_every_call(monkeypatch):
    clock = SimpleNamespace(now=0.0, rests=[])

    def run():
        clock.now += 1.0
        return 1.0

    def sleep(seconds):
        clock.rests.append((clock.now, seconds))

    fake = SimpleNamespace(perf_counter=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(turns, "time", fake)
    turns.time_in_turn({"a": run}, 1, 2, warmup_seconds=5.0, rest_seconds=0.25)
    assert clock.rests == [(5.0, 0.25), (6.0, 0.25)]
    clock.now, clock.rests = 0.0, []
    turns.time_in_turn({"a": run}, 1, 1, warmup_seconds=0.0, warmup_calls=3)
    assert clock.rests == [(3.0, 0.0)]


def test_a_call_is_timed_with_its_arguments(monkeypatch):
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    seen = []
    assert turns.timed(lambda *x: seen.append(x), 1, "b")() == 2.5
    assert seen == [(1, "b")]


def test_batch_sizes_are_positive_numbers():
    assert turns.batch_sizes("1,8") == [1, 8]
    for text in ("", "0", "1,-2", "1,x"):
        with refused("--batch_sizes like 1,8"):
            turns.batch_sizes(text)


def test_threads_take_the_first_cores(monkeypatch):
    chosen = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {6, 2, 4})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: chosen.append(list(cores)))
    turns.use_cores(2)
    turns.use_cores(3)  # all there are: nothing to restrict
    assert chosen == [[2, 4]]
    for count in (0, 4):
        with refused("--threads from 1 to 3"):
            turns.use_cores(count)
