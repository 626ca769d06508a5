"""Reports: what they hold, and that they appear whole or not at all."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.errors import refused
from tools.inference.report import (
    SpeechRow,
    Stopwatch,
    runner_facts,
    speech_speed,
    write_report,
)
from tools.memory import peak_resident_bytes

ROWS = [
    SpeechRow("a/one.flac", 1.23456, "ONE TWO", "ONE"),
    SpeechRow("a/two.wav", 2.0, None, "HE SAID \"NO\" AND 'YES'"),
]
SUMMARY = {"wer": 0.25, "cer": None, "mode": "eager"}


def table(path):
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_json_and_a_table_beside_it(tmp_path):
    write_report(tmp_path / "new" / "report.json", SUMMARY, ROWS)
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == SUMMARY
    text = (tmp_path / "new" / "report.tsv").read_text()
    assert text == (
        "PATH\tDURATION\tGROUNDTRUTH\tGREEDY\tBEAMSEARCH\n"
        "a/one.flac\t1.235\tONE TWO\tONE\t\n"
        "a/two.wav\t2.000\t\tHE SAID \"NO\" AND 'YES'\t\n"
    )
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["report.json", "report.tsv"]


@pytest.mark.parametrize("name", ["report.json", "report.tsv", "report"])
def test_either_file_may_be_named(tmp_path, name):
    write_report(tmp_path / name, SUMMARY, ROWS)
    assert table(tmp_path / "report.tsv")[1][0] == "a/one.flac"
    written = (tmp_path / name).with_suffix(".json" if name.endswith("v") else Path(name).suffix)
    assert json.loads(written.read_text()) == SUMMARY


def test_whatever_a_text_holds_it_stays_one_cell(tmp_path):
    odd = "\"a\"\tb\\t\nc\r\nd,e;'f' \u2028 ÄŁ漢"
    write_report(tmp_path / "r.json", {}, [SpeechRow(odd, 1.0, odd, odd)])
    lines = (tmp_path / "r.tsv").read_bytes().decode().split("\n")
    assert len(lines) == 3
    assert lines[2] == ""
    cells = lines[1].split("\t")
    cleaned = "\"a\" b\\t c  d,e;'f' \u2028 ÄŁ漢"
    path = r"""\"a\"\tb\t\nc\r\nd,e;'f' \u2028 ÄŁ漢"""  # from which the name can be told
    assert cells == [path.replace('\\"', '"'), "1.000", cleaned, cleaned, ""]


def test_names_that_are_no_utf_8_come_back_as_they_are(tmp_path):
    write_report(tmp_path / "r.json", {}, [SpeechRow(os.fsdecode(b"\xff\xfe.wav"), 1.0, None, "A")])
    assert (tmp_path / "r.tsv").read_bytes().split(b"\n")[1].startswith(b"\xff\xfe.wav\t")


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_a_failure_leaves_the_earlier_report(tmp_path, monkeypatch, failing):
    path = tmp_path / "report.json"
    write_report(path, SUMMARY, ROWS)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(self, *_, **__):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, failing, fail)
    with refused("No space left on device"):
        write_report(path, {}, [])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("room and permission to write"):
        write_report(tmp_path / "file" / "report.json", {}, [])


def test_a_beam_search_has_its_own_column(tmp_path):
    write_report(tmp_path / "r.json", {}, [SpeechRow("a", 0.5, "ONE", "TWO", "THREE")])
    assert table(tmp_path / "r.tsv")[1] == ["a", "0.500", "ONE", "TWO", "THREE"]


def test_speeds():
    found = speech_speed(2.0, [SpeechRow("", 6.0, None, ""), SpeechRow("", 2.0, None, "")])
    assert found == {"rtf": 0.25, "rtfx": 4.0, "audio_seconds": 8.0}
    assert speech_speed(0.0, [])["rtf"] >= 0


def test_a_stopwatch_adds_up_what_it_is_told_to(monkeypatch):
    clock = iter([0.0, 10.0, 10.5, 20.0, 21.0, 22.0, 25.0, 30.0, 32.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Stopwatch()
    for _ in range(2):
        with watch.running():
            pass
    assert watch.seconds == 1.5
    with watch.excluded():  # 3 s of warm-up
        pass
    with pytest.raises(ZeroDivisionError), watch.running():
        raise ZeroDivisionError
    assert watch.seconds == 3.5
    speed = watch.speed(58)
    assert speed["end_to_end_seconds"] == 29.0
    assert speed["end_to_end_samples_per_second"] == 2.0
    assert speed["samples_per_second"] == pytest.approx(58 / 3.5)
    assert speed["latency_ms_p50"] == 1000.0
    assert 1000.0 < speed["latency_ms_p95"] <= 2000.0


def test_latencies_are_percentiles_of_the_batches():
    watch = Stopwatch()
    # 0 to 20 ms: the 95th percentile is the twentieth of 21 values in order.
    watch.laps += [number / 1000 for number in (*range(20, 10, -1), *range(11))]
    speed = watch.speed(1)
    assert speed["latency_ms_p50"] == pytest.approx(10.0)
    assert speed["latency_ms_p95"] == pytest.approx(19.0)


def test_a_stopwatch_that_never_ran_has_finite_speeds():
    speed = Stopwatch().speed(0)
    assert speed["samples_per_second"] == speed["latency_ms_p95"] == 0.0
    assert 0 < speed["end_to_end_seconds"] < 1e-6


def test_what_ran_is_told_as_it_ran(tmp_path):
    for name, size in (("graph", 3 << 20), ("weights", 1 << 19)):
        (tmp_path / name).write_bytes(bytes(size))
    runner = SimpleNamespace(
        mode="jit",
        backend="openvino",
        precision="int8_fp32",
        files=sorted(tmp_path.iterdir()),
        manifest={"request": {"quantization": {"algo": "linear"}}, "seconds": 12.5},
        shapes=SimpleNamespace(described=lambda: {"prepared": 3}),
    )
    facts = runner_facts(runner)
    peak_mib = facts.pop("peak_memory_mib")
    assert facts == {
        "precision": "int8_fp32",
        "mode": "jit",
        "backend": "openvino",
        "quantization": {"algo": "linear"},
        "conversion_seconds": 12.5,
        "shapes": {"prepared": 3},
        "model_mib": 3.5,
    }
    assert peak_mib == pytest.approx(peak_resident_bytes() / 2**20, 0.1)
    del runner.manifest
    eager = runner_facts(runner)
    assert (eager["quantization"], eager["conversion_seconds"]) == (None, None)


def test_all_that_is_excluded_adds_up_whatever_happens_in_it(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 5.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Stopwatch()
    with watch.excluded():  # 3 s
        pass
    with pytest.raises(ZeroDivisionError), watch.excluded():  # 5 s
        raise ZeroDivisionError
    with watch.running():
        pass
    assert watch.speed(11)["end_to_end_seconds"] == 30.0 - 8.0
    assert watch.seconds == 10.0
