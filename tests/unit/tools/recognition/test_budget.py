"""The largest frame budget: buckets, search with a fake trial, and the program."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf

import conformer
import conformer.find_budget
import wav2vec2.find_budget
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.recognition import budget_program
from tools.recognition.budget import Bucket, buckets_of, budget_of, find_largest_batches
from tools.recognition.trial import Sizes, run_trial
from tools.speech.bucketing import epoch_plan


def memory_of(rows: int, samples: int, labels: int) -> int:
    """Bytes of a made-up model: a fixed part, and parts of attention and of the loss."""
    return 1000 + rows * (2 * samples + samples**2 // 50 + samples * labels // 10)


def test_buckets_cover_the_corpus():
    rng = np.random.default_rng(0)
    samples, labels = rng.integers(1, 1000, 500), rng.integers(0, 60, 500)
    buckets = buckets_of(samples, labels, 8)
    assert sum(bucket.num_utterances for bucket in buckets) == 500
    assert buckets[-1].samples == samples.max() and buckets[-1].labels == labels.max()
    lower = 0
    for bucket in buckets:
        members = (samples > lower) & (samples <= bucket.samples)
        assert members.sum() == bucket.num_utterances
        assert labels[samples <= bucket.samples].max() == bucket.labels
        lower = bucket.samples


@pytest.mark.parametrize("limit", [40_000, 300_000])
def test_every_batch_of_a_plan_with_the_budget_fits(limit):
    rng = np.random.default_rng(1)
    samples, labels = rng.integers(20, 400, 800), rng.integers(0, 30, 800)
    trials = []

    def peak_of(bucket, rows):
        peak = memory_of(rows, bucket.samples, bucket.labels)
        return peak if peak <= limit else None

    found = find_largest_batches(
        buckets_of(samples, labels, 8), peak_of, 10_000, lambda *trial: trials.append(trial)
    )
    for one in found:
        assert one.peak_bytes == memory_of(one.rows, one.bucket.samples, one.bucket.labels)
        # Within the accuracy, no larger batch fits.
        assert peak_of(one.bucket, int(1.06 * one.rows) + 1) is None
    assert len(trials) < 100
    budget = budget_of(found, 10_000)
    plan = epoch_plan(
        samples,
        seed=0,
        epoch=0,
        global_batch_size=budget.batch_size,
        num_buckets=8,
        max_batch_samples=budget.max_batch_samples,
    )
    largest = max(memory_of(len(x), samples[x].max(), labels[x].max()) for x in plan)
    assert 0.3 * limit < largest <= limit
    shortest = found[0].bucket.samples
    assert (budget.batch_size + 1) * shortest > budget.max_batch_samples


@pytest.mark.parametrize(("most_rows", "samples"), [(20, 10_000), (10, 10_000), (4, 4000)])
def test_buckets_that_memory_does_not_limit_do_not_lower_the_budget(most_rows, samples):
    """10,000 samples fit; buckets of 10 and of 100 samples have room for more rows than 20."""
    buckets = [Bucket(length, 1, 1) for length in (10, 100, 1000)]

    def peak_of(bucket, rows):
        return rows * bucket.samples if rows * bucket.samples <= 10_000 else None

    found = find_largest_batches(buckets, peak_of, most_rows)
    assert [one.rows for one in found] == [most_rows, most_rows, min(most_rows, 10)]
    assert budget_of(found, most_rows) == (samples, most_rows)


def test_the_program_tells_which_buckets_have_room(program, capsys):
    assert program("--memory_gb=0.01", "--set=data.num_buckets=4", "--most_rows=8") == 0
    assert "2 buckets with room for --most_rows=8" in capsys.readouterr().err
    assert program("--memory_gb=0.01", "--most_rows=50") == 0
    assert "with room" not in capsys.readouterr().err


def test_too_little_memory_for_one_utterance_is_one_line():
    buckets = [Bucket(100, 3, 1), Bucket(900, 8, 1)]
    with refused(match="memory for a batch of one.*900 samples with 8 labels.*--memory_gb"):
        find_largest_batches(buckets, lambda bucket, rows: None, 4)


@pytest.fixture
def program(corpus, monkeypatch):
    """Returns a function that runs the program with a fake trial on a small corpus."""

    def run(*arguments, module=conformer.find_budget, config="configs/conformer/smoke.yml"):
        def peak(limit, function, make_objective, config, vocabulary_size, sizes, use_gpu):
            assert function is run_trial and vocabulary_size > 2 and not use_gpu
            needed = 10**6 * sizes.rows * sizes.samples // config_rate
            return needed if needed <= limit else None

        config_rate = 16000
        monkeypatch.setattr(budget_program, "peak_within", peak)
        return module.main([f"--config={config}", f"--data_dir={corpus}", *arguments])

    return run


@pytest.fixture
def corpus(tmp_path, rng):
    sounds = [
        (text, rng.normal(0, 0.1, round(16000 * seconds)))
        for text, seconds in (("ONE", 0.5), ("TWO ONE", 1.0), ("TWO", 1.5), ("ONE TWO", 2.0))
    ]
    write_librispeech(tmp_path / "corpus" / "train-clean", sounds)
    return tmp_path / "corpus"


def test_the_program_writes_a_config_that_training_accepts(program, tmp_path, capsys):
    output = tmp_path / "budget.yml"
    assert program("--memory_gb=0.01", f"--output={output}", "--set=data.num_buckets=2") == 0
    printed = capsys.readouterr().out
    config = conformer.load_config(output)
    assert f"--set data.max_batch_seconds={config.data.max_batch_seconds}" in printed
    assert f"--set training.batch_size={config.training.batch_size}" in printed
    assert 0 < config.data.max_batch_seconds <= 10.001
    assert config.data.num_buckets == 2
    before = conformer.load_config("configs/conformer/smoke.yml")
    assert config.model == before.model
    assert dataclasses.replace(config.training, batch_size=before.training.batch_size) == (
        before.training
    )


def test_the_other_speech_family_has_the_program(program, capsys):
    config = "configs/wav2vec2/smoke.yml"
    assert program("--memory_gb=0.01", module=wav2vec2.find_budget, config=config) == 0
    assert "data.max_batch_seconds" in capsys.readouterr().out


def test_a_gpu_is_left_to_the_trials(corpus, monkeypatch):
    """The program hides the GPU from itself before it builds anything, and asks for its memory
    only without --memory_gb."""
    events = []

    def peak(limit, *arguments, use_gpu):
        events.append((limit, use_gpu))
        return 1

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["a device"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *given: events.append(given))
    monkeypatch.setattr(budget_program, "peak_within", peak)
    monkeypatch.setattr(budget_program, "gpu_memory_bytes", lambda: events.append("asked") or 10**9)
    flags = ["--config=configs/conformer/smoke.yml", f"--data_dir={corpus}", "--most_rows=1"]
    flags.append("--set=data.num_buckets=1")
    assert conformer.find_budget.main([*flags, "--memory_gb=2"]) == 0
    assert events == [([], "GPU"), (2 * 10**9, True)]
    events.clear()
    assert conformer.find_budget.main(flags) == 0
    assert events == [([], "GPU"), "asked", (9 * 10**8, True)]


def test_a_true_run_measures_a_process(corpus, capsys):
    arguments = ["--config=configs/conformer/smoke.yml", f"--data_dir={corpus}", "--memory_gb=50"]
    assert (
        conformer.find_budget.main([*arguments, "--most_rows=1", "--set=data.num_buckets=1"]) == 0
    )
    heads, row, _ = capsys.readouterr().out.splitlines()
    values = dict(zip(re.split("  +", heads.strip()), row.split(), strict=True))
    assert (values["up to s"], values["utterances"], values["rows"]) == ("2.00", "4", "1")
    assert 0.1 < float(values["GB"]) < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory_gb=0"], "--memory_gb above 0"),
        (["--memory_gb=nan"], "--memory_gb above 0"),
        (["--most_rows=0"], "--most_rows >= 1"),
        (["word"], "flags alone"),
        (["--memory_gb=1e-6"], "memory for a batch of one utterance"),
    ],
)
def test_bad_input_is_one_line(program, arguments, message):
    with refused(message):
        program(*arguments)


@pytest.mark.parametrize("family", ["conformer", "wav2vec2"])
def test_a_trial_trains_the_model_of_the_config(family, monkeypatch):
    """In this process, on a tiny model, with rematerialization and accumulation in the config."""
    program = {"conformer": conformer.find_budget, "wav2vec2": wav2vec2.find_budget}[family].PROGRAM
    settings = {"training.accumulate_steps": "2"}
    config = program.training.load_config(f"configs/{family}/smoke.yml", settings)
    made = []

    def make_objective(*arguments):
        made.append(program.make_objective(*arguments))
        before.extend(v.numpy() for v in made[0].model.trainable_variables)
        return made[0]

    before: list = []
    run_trial(make_objective, config, 9, Sizes(2, 8000, 3))
    after = [v.numpy() for v in made[0].model.trainable_variables]
    changed = [np.any(x != y) for x, y in zip(before, after, strict=True)]
    assert np.mean(changed) > 0.9
    assert all(np.all(np.isfinite(x)) for x in after)
