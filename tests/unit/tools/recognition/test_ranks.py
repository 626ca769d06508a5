"""Recognition in several processes: shares, errors, devices, and one report."""

import json
import os
import threading
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.support.processes import ThreadRank, run_ranks
from tests.support.speech import write_librispeech
from tests.unit.tools.recognition.test_program import LIMITS, TEXTS, Toy
from tools.conversion.machine import num_cores
from tools.errors import UserError
from tools.inference.options import DataOptions
from tools.inference.report import Times
from tools.recognition import ranks as ranks_module
from tools.recognition.program import run_program
from tools.recognition.ranks import ALONE, Ranks, claim_devices, start_ranks

SAMPLES = [8000, 3200, 16000, 4800, 12000]


@pytest.fixture
def corpus(tmp_path, rng):
    sounds = [0.1 * rng.normal(size=size) for size in SAMPLES]
    write_librispeech(tmp_path / "corpus" / "dev", zip(TEXTS, sounds, strict=True))
    return tmp_path / "corpus"


def evaluate(corpus, report, size):
    """Evaluates in ranks; returns the toys, the results and the report."""
    data = DataOptions((), str(corpus), batch_size=2, result_path=str(report))
    toys = [Toy() for _ in range(size)]

    def work(processes):
        toy = toys[processes.rank]
        return run_program(lambda: toy, LIMITS, data, ranks=Ranks(processes))

    results = run_ranks(size, work)
    return toys, results, json.loads(report.read_text())


@pytest.mark.parametrize("size", [2, 3, 7])
def test_ranks_divide_a_corpus_and_write_one_report(corpus, tmp_path, capsys, size):
    """Error counts are sums over the ranks, and rates are computed from the sums."""
    next(corpus.rglob("*0001.flac")).write_bytes(b"fLaC")
    alone = tmp_path / "alone.json"
    data = DataOptions((), str(corpus), batch_size=2, result_path=str(alone))
    assert run_program(Toy, LIMITS, data) == 0
    one = json.loads(alone.read_text())
    capsys.readouterr()
    toys, results, report = evaluate(corpus, tmp_path / "ranks.json", size)
    assert results == [0] * size
    assert report["num_processes"] == size and "num_processes" not in one
    names = "wer cer substitutions deletions insertions num_utterances num_skipped audio_seconds"
    for name in names.split():
        assert report[name] == one[name], name
    assert (report["wer"], report["cer"]) == (2 / 5, 6 / 23)
    tables = [(tmp_path / f"{name}.tsv").read_text() for name in ("alone", "ranks")]
    assert tables[0] == tables[1]
    err = capsys.readouterr().err
    assert err.count("WER 40.00%") == err.count("utterances/s") == 1
    assert f"at batch size 2 in each of {size} processes (eager" in err
    # Each sound once in all; the first batch of a rank once more, to warm up.
    once = [sorted({n for batch in toy.batches for n in batch}) for toy in toys]
    assert sorted(n for toy in once for n in toy) == sorted({*SAMPLES} - {3200})
    assert all(toy.is_closed for toy in toys)


def test_long_and_short_sounds_are_shared(corpus, tmp_path):
    toys, _, _ = evaluate(corpus, tmp_path / "r.json", 2)
    assert [toy.batches[-2:] for toy in toys] == [[[16000, 8000], [3200]], [[12000, 4800]] * 2]


def test_times_of_ranks_that_run_at_once():
    times = Times.of_ranks([Times((1.0, 2.0), 3.0, 3.5), Times((0.5,), 0.5, 4.0)])
    assert times == Times((1.0, 2.0, 0.5), 3.0, 4.0)
    speed = times.speed(12)
    assert (speed["samples_per_second"], speed["end_to_end_samples_per_second"]) == (4.0, 3.0)
    assert speed["latency_ms_p50"] == 1000.0


def test_an_error_of_any_rank_is_raised_once():
    def check(processes):
        def make():
            if processes.rank:
                raise UserError(f"of rank {processes.rank}")

        return Ranks(processes).on_every_rank(make)

    first, second, third = run_ranks(3, check)
    assert isinstance(second, UserError) and str(second) == "of rank 1"
    assert [x.code for x in (first, third)] == [2, 2]


def test_the_first_process_of_a_machine_opens_the_model_before_the_others():
    opened, lock = [], threading.Lock()

    def work(processes):
        def make():
            with lock:
                opened.append(processes.rank)
            return processes.rank

        return Ranks(processes).in_turn(make)

    assert run_ranks(3, work) == [0, 1, 2]
    assert opened[0] == 0 and sorted(opened) == [0, 1, 2]


def test_nothing_is_asked_of_horovod_without_a_launcher(monkeypatch):
    for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert start_ranks(None) is start_ranks(False) is ALONE
    monkeypatch.setenv("HOROVOD_RANK", "1")
    assert start_ranks(False) is ALONE
    assert (ALONE.size, ALONE.is_first, ALONE.share([1, 2]), ALONE.gather(3)) == (
        1, True, [1, 2], [3],
    )  # fmt: skip
    assert ALONE.in_turn(lambda: 4) == ALONE.on_every_rank(lambda: 4) == 4
    assert claim_devices(ALONE, None, 3) == 3


@pytest.fixture
def devices(monkeypatch, tmp_path):
    """The GPUs of a machine; returns what rank 1 of 2 gets: its GPUs and its threads."""
    monkeypatch.setattr("tools.conversion.saved_model.limit_threads", lambda _: None)

    def claim(number, visible, threads=None):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        driver = tmp_path / "gpus"
        for index in range(number):
            (driver / str(index)).mkdir(parents=True)
        monkeypatch.setattr(ranks_module, "_DRIVER", Path(driver))
        processes = ThreadRank(1, threading.Barrier(2), [None, None])
        found = claim_devices(Ranks(processes), visible, threads)
        return os.environ.get("CUDA_VISIBLE_DEVICES"), found

    return claim


@pytest.mark.parametrize(
    ("number", "visible", "own"),
    [(2, None, "1"), (4, "3, 2", "2"), (0, None, None), (2, "-1", "-1"), (0, "0,1", "0,1")],
)
def test_each_process_uses_the_gpu_of_its_local_rank(devices, number, visible, own):
    assert devices(number, visible) == (own, max(1, num_cores() // 2))


def test_threads_that_are_asked_for_stay(devices):
    assert devices(0, None, 1)[1] == 1


def test_fewer_gpus_than_processes_are_refused(devices):
    with refused("a GPU for each of the 2 processes of this machine. Received: 1."):
        devices(1, None)
