"""The loop on a task of one dense layer: records, checkpoints, bad numbers, and resuming."""

import contextlib
import itertools
import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tests.support.processes import run_ranks
from tools.errors import UserError
from tools.training import loop, resumable_run
from tools.training.checkpoint import CheckpointStore, RunFolders, open_checkpoint
from tools.training.config import (
    CheckpointConfig,
    LossScaleConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from tools.training.distributed import SingleProcess
from tools.training.loop import LoopOptions, train

STEPS_PER_EPOCH, EPOCHS = 3, 4


def make_config(checkpoint=None, optimizer=None, **arguments):
    return TrainingConfig(
        **{"batch_size": 4, "num_epochs": EPOCHS, "log_every_steps": 1, **arguments},
        optimizer=OptimizerConfig(**{"average_decay": 0.5, **(optimizer or {})}),
        schedule=ScheduleConfig(name="cosine", peak=0.05, warmup_steps=4),
        checkpoint=CheckpointConfig(**{"keep_last": 100, **(checkpoint or {})}),
    )


def run(task, directory, config=None, processes=None, **options):
    directory.mkdir(exist_ok=True)
    folders = RunFolders.inside(directory)
    if options.pop("resume", False):
        options["resumed"] = folders.store().latest()
    processes = processes or SingleProcess()
    return train(task, config or make_config(), processes, folders, options=LoopOptions(**options))


def random_layers():
    return [
        keras.layers.Dropout(0.3, name="dropout_a"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dropout(0.3, name="dropout_b"),
    ]


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def losses(directory):
    return [(x["step"], x["train/loss"]) for x in lines(directory) if "train/loss" in x]


def saved_steps(directory):
    return [checkpoint.step for checkpoint in CheckpointStore(directory / "checkpoints").all()]


def arrays(directory):
    with np.load(CheckpointStore(directory / "checkpoints").latest().path / "arrays.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, line_task):
    """A whole run with dropout, batch norm and averages, a checkpoint after every step."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    task = line_task(random_layers())
    summary = run(task, directory, make_config({"every_steps": 1}))
    return task, directory, summary


def test_records_of_a_run(finished):
    task, directory, summary = finished
    records = lines(directory)
    steps = [x for x in records if "train/loss" in x]
    assert [(x["step"], x["epoch"]) for x in steps] == [(s, (s - 1) // 3) for s in range(1, 13)]
    names = {"step", "epoch", "train/loss", "train/gradient_norm", "train/absolute_error"}
    names |= {"train/learning_rate", "train/skipped_steps"}
    names |= {"perf/samples_per_second", "perf/steps_per_second", "perf/data_wait_share"}
    assert set(steps[0]) == names
    assert all(0 <= x["perf/data_wait_share"] <= 1 for x in steps)
    rates = [x["train/learning_rate"] for x in steps]
    assert rates[:4] == pytest.approx([0.0125, 0.025, 0.0375, 0.05])
    assert rates[-1] == pytest.approx(0.0)
    assert [(x["step"], x["eval/wer"]) for x in records if "eval/wer" in x] == [
        (step, wer) for step, wer in zip((3, 6, 9, 12), task.evaluated, strict=True)
    ]
    assert all((x.get("perf/eval_seconds", 0) > 0) == ("eval/wer" in x) for x in records)
    assert json.loads((directory / "summary.json").read_text()) == summary
    assert summary["step"] == 12
    assert summary["eval/wer"] == task.evaluated[-1]
    speeds = [x["perf/samples_per_second"] for x in steps]
    assert summary["perf/samples_per_second"] == np.median(speeds[1:]), "the first one compiles"
    assert open_checkpoint(directory).asset("vocabulary.json") == "[]"


def test_evaluation_sees_the_averages_and_leaves_the_weights(finished):
    task, directory, _ = finished
    saved = arrays(directory)
    assert saved["average/line/output/bias"][0] == np.float32(task.evaluated[-1])
    assert saved["model/line/output/bias"][0] != np.float32(task.evaluated[-1])
    np.testing.assert_array_equal(
        task.model.get_layer("output").bias.numpy(), saved["model/line/output/bias"]
    )


def test_the_best_checkpoint_is_that_of_the_smallest_metric(finished):
    task, directory, _ = finished
    assert open_checkpoint(directory).step == 3 * (1 + int(np.argmin(task.evaluated)))


@pytest.mark.parametrize("killed_after", [5, 6, 1])
def test_killed_and_resumed_equals_never_killed(finished, line_task, tmp_path, killed_after):
    _, whole, _ = finished
    directory = tmp_path / "killed"
    shutil.copytree(whole, directory)
    for path in directory.glob("checkpoints/step-*"):
        if int(path.name.removeprefix("step-")) > killed_after:
            shutil.rmtree(path)
    (directory / "summary.json").unlink()
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "epo')
    run(line_task(random_layers()), directory, make_config({"every_steps": 1}), resume=True)
    assert losses(directory) == losses(whole)
    expected = arrays(whole)
    found = arrays(directory)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_stopped_at_max_steps_and_resumed_equals_never_stopped(finished, line_task, tmp_path):
    _, whole, _ = finished
    config = make_config()
    for steps in (2, 7, 0):
        summary = run(
            line_task(random_layers()), tmp_path, config, max_steps=steps, resume=steps != 2
        )
        assert summary["step"] == (steps or 12)
    assert losses(tmp_path) == losses(whole)
    for name, value in arrays(whole).items():
        np.testing.assert_array_equal(arrays(tmp_path)[name], value, err_msg=name)


def test_a_resume_with_another_batch_size_sees_the_rest_of_the_epoch(line_task, tmp_path):
    tasks = [line_task(), line_task()]
    run(tasks[0], tmp_path, make_config(num_epochs=2), skip_eval=True, max_steps=1)
    larger = make_config({"every_steps": 1}, num_epochs=2, batch_size=6)
    run(tasks[1], tmp_path, larger, skip_eval=True, resume=True)
    assert [len(rows) for task in tasks for rows in task.seen] == [4, 6, 2, 6, 6]
    rows = [row for task in tasks for batch in task.seen for row in batch]
    assert sorted(rows[:12]) == sorted(rows[12:]) == list(range(12))
    found = {c.step: c.state["position"] for c in CheckpointStore(tmp_path / "checkpoints").all()}
    assert found[1] == {"epoch": 0, "done": [[4, 1]]}
    assert found[2] == {"epoch": 0, "done": [[4, 1], [6, 1]]}
    assert found[3] == {"epoch": 1, "done": []}
    assert found[4] == {"epoch": 1, "done": [[6, 1]]}


def test_what_reads_the_data_ends_with_a_loop_that_ends_early(line_task, tmp_path):
    task = line_task()
    run(task, tmp_path, skip_eval=True, max_steps=2)
    assert task.readers == ["closed"]


def test_evaluation_before_the_first_step_when_asked(line_task, tmp_path):
    task, again = line_task(), line_task()
    bias = float(task.model.get_layer("output").bias.numpy()[0])
    run(task, tmp_path, eval_at_start=True, max_steps=1)
    assert task.evaluated[0] == bias
    evaluations = [(x["step"], x["epoch"]) for x in lines(tmp_path) if "eval/wer" in x]
    assert evaluations == [(0, 0), (1, 0)]
    run(again, tmp_path, eval_at_start=True, max_steps=2, resume=True)
    assert len(again.evaluated) == 1, "a resumed run has begun before"


def test_an_epoch_without_a_row_that_counts_ends_the_run(line_task, tmp_path):
    task = line_task()
    make = task.batch
    task.batch = lambda indices: make(np.full(len(indices), -1))
    with refused("nothing usable in an epoch"):
        run(task, tmp_path, skip_eval=True)


def test_the_best_is_that_of_the_largest_metric_where_the_config_says_so(line_task, tmp_path):
    task, found = line_task(), iter([0.5, 0.75, 0.25, 0.5])
    task.evaluators = {"eval": lambda: {"accuracy": next(found), "wer": 0.0}}
    options = {"best_metric": "eval/accuracy", "larger_is_better": True}
    run(task, tmp_path, make_config({"keep_last": 1}, **options))
    assert saved_steps(tmp_path) == [6, 12]
    assert open_checkpoint(tmp_path).step == 6


def test_a_resume_of_a_finished_run_only_evaluates(finished, line_task, tmp_path):
    _, whole, summary = finished
    directory = tmp_path / "again"
    shutil.copytree(whole, directory)
    task = line_task(random_layers())
    again = run(task, directory, resume=True)
    assert len(task.evaluated) == 1
    assert (again["step"], again["eval/wer"]) == (12, summary["eval/wer"])
    assert saved_steps(directory) == list(range(1, 13))
    assert losses(directory) == losses(whole)


def test_a_resume_with_other_random_layers_is_refused(finished, line_task, tmp_path):
    directory = tmp_path / "other"
    shutil.copytree(finished[1], directory)
    task = line_task([keras.layers.BatchNormalization(name="norm")])
    with refused("random layers"):
        run(task, directory, resume=True)


def test_a_resume_with_another_model_is_refused(finished, line_task, tmp_path):
    directory = tmp_path / "other"
    shutil.copytree(finished[1], directory)
    with refused("unexpected: line/norm/beta"):
        run(line_task(), directory, resume=True)


def test_only_between_epochs_a_resume_may_have_another_seed(finished, line_task, tmp_path):
    """Within one, the seed tells which rows are still to come."""
    config = make_config(seed=5, num_epochs=3)
    store = CheckpointStore(finished[1] / "checkpoints")
    middle, end = (c for c in store.all() if c.step in (5, 6))
    with refused(match=r"seed 0, with which the epoch of .*step-00000005.*: 5\."):
        run(line_task(random_layers()), tmp_path, config, resumed=middle)
    end.state["position"] = {"epoch": 2, "done": []}  # as at the end of an epoch
    assert run(line_task(random_layers()), tmp_path, config, resumed=end)["step"] == 9


def test_checkpoints_at_the_ends_of_epochs(line_task, tmp_path):
    run(line_task(), tmp_path, make_config({"keep_last": 2, "keep_best": 0}))
    assert saved_steps(tmp_path) == [9, 12]


def test_checkpoints_every_few_steps_and_at_the_end(line_task, tmp_path):
    run(line_task(), tmp_path, make_config({"every_steps": 2}), max_steps=7)
    assert saved_steps(tmp_path) == [2, 3, 4, 6, 7]
    state = open_checkpoint(tmp_path / "checkpoints" / "step-00000007").state
    assert state["position"] == {"epoch": 2, "done": [[4, 1]]}
    assert lines(tmp_path)[-1]["step"] == 7


def test_checkpoints_by_the_clock(line_task, tmp_path, monkeypatch):
    """A clock that moves by a second at every look; looked at with every other step."""
    seconds = itertools.count()
    monkeypatch.setattr(resumable_run.time, "monotonic", lambda: float(next(seconds)))
    config = make_config({"every_seconds": 2.0}, log_every_steps=2, num_epochs=3)
    run(line_task(), tmp_path, config, skip_eval=True)
    # Epochs end with steps 3, 6 and 9; steps 4 and 8 are one look each after those.
    assert saved_steps(tmp_path) == [3, 6, 9]
    quick = make_config({"every_seconds": 1.0}, log_every_steps=2, num_epochs=3)
    run(line_task(), tmp_path / "quick", quick, skip_eval=True)
    assert saved_steps(tmp_path / "quick") == [2, 3, 4, 6, 8, 9]


def test_the_weights_are_evaluated_beside_their_average(line_task, tmp_path):
    task = line_task()
    summary = run(task, tmp_path, make_config(evaluate_unaveraged=True))
    saved = arrays(tmp_path)
    assert summary["eval/wer"] == saved["average/line/output/bias"][0]
    assert summary["eval_unaveraged/wer"] == saved["model/line/output/bias"][0]
    assert summary["eval/wer"] != summary["eval_unaveraged/wer"]


def test_without_an_average_nothing_is_evaluated_twice(line_task, tmp_path):
    config = TrainingConfig(batch_size=4, num_epochs=1, evaluate_unaveraged=True)
    assert "eval_unaveraged/wer" not in run(line_task(), tmp_path, config)


def test_a_run_may_begin_at_a_later_epoch(finished, line_task, tmp_path):
    _, whole, _ = finished
    summary = run(line_task(random_layers()), tmp_path, start_epoch=2)
    assert summary["step"] == 12
    ours, expected = (
        [
            (x["step"], x["epoch"], x["train/learning_rate"])
            for x in lines(directory)
            if "train/loss" in x and x["step"] > 6
        ]
        for directory in (tmp_path, whole)
    )
    assert ours == expected


def test_frozen_layers_and_rates_by_layer(line_task, tmp_path):
    layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(3, name="b")]
    task = line_task(layers)
    before = [layer.kernel.numpy() for layer in layers]
    config = make_config(optimizer={"layer_decay": 0.001}, freeze=("a",))
    run(task, tmp_path, config)
    np.testing.assert_array_equal(layers[0].kernel.numpy(), before[0])
    moves = [np.abs(layers[1].kernel.numpy() - before[1]).max()]
    moves.append(np.abs(task.model.get_layer("output").bias.numpy()).max())
    assert 0 < 50 * moves[0] < moves[1]
    assert not any("/a/" in name for name in arrays(tmp_path) if name.startswith("optimizer"))


def test_clipping_and_averages_go_together(line_task, tmp_path):
    tight = run(line_task(), tmp_path / "tight", make_config(optimizer={"clip_norm": 1e-9}))
    loose = run(line_task(), tmp_path / "loose", make_config(optimizer={"clip_norm": 1e9}))
    assert abs(tight["eval/wer"]) < abs(loose["eval/wer"])
    assert "average/line/output/bias" in arrays(tmp_path / "tight")


def test_lines_for_those_who_have_no_terminal(line_task, tmp_path, capsys):
    run(line_task(), tmp_path, make_config(print_every_steps=5), skip_eval=True)
    printed = capsys.readouterr().err
    assert [n for n in range(1, 13) if f"step {n}: loss " in printed] == [5, 10]
    assert "made-up rows\n" in printed


@pytest.mark.parametrize(("max_steps", "logged"), [(0, [5, 10, 12]), (7, [5, 7])])
def test_records_every_few_steps_and_of_the_last(line_task, tmp_path, capsys, max_steps, logged):
    config = make_config(log_every_steps=5)
    run(line_task(), tmp_path, config, skip_eval=True, max_steps=max_steps)
    assert [step for step, _ in losses(tmp_path)] == logged
    assert f"{logged[-1]}/{logged[-1]} " in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_ends_every_rank(line_task, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    tasks, config = [line_task(), line_task()], make_config(batch_size=2)
    first, second = run_ranks(2, lambda r: run(tasks[r.rank], tmp_path, config, r))
    assert isinstance(first, UserError)
    assert "No space left" in str(first)
    assert isinstance(second, SystemExit), "it does not go on alone"


def test_an_evaluation_that_fails_takes_no_training_with_it(line_task, tmp_path):
    def fail():
        raise UserError.expected("evaluation sounds", "none", "Check them")

    task = line_task()
    task.evaluators["eval"] = fail
    with refused("evaluation sounds"):
        run(task, tmp_path, make_config(batch_size=6))
    assert saved_steps(tmp_path) == [2]
    assert open_checkpoint(tmp_path).state["metric"] is None


class Signals(list):
    """What a task has seen; raises a signal with the given entry."""

    def __init__(self, number, at):
        super().__init__()
        self.number, self.at = number, at

    def append(self, item):
        super().append(item)
        if len(self) == self.at:
            signal.raise_signal(self.number)


@pytest.fixture
def handlers():
    """Signals have their default handlers, also where the tests run under nohup."""
    before = {x: signal.signal(x, signal.SIG_DFL) for x in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_the_next_step_and_the_rest_follows(
    finished, line_task, tmp_path, capfd, number, code
):
    task = line_task(random_layers())
    task.seen = Signals(number, at=4)  # while step 4 is counted
    with pytest.raises(SystemExit) as ended:
        run(task, tmp_path, make_config())
    assert ended.value.code == code
    assert saved_steps(tmp_path) == [3, 5]
    printed = capfd.readouterr().err
    assert f"{number.name}: " in printed and "last checkpoint so far: step 3" in printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith(f"ended by {number.name}: saved the checkpoint of step 5")
    assert signal.getsignal(number) == signal.SIG_DFL, "nothing of it stays"
    run(line_task(random_layers()), tmp_path, make_config(), resume=True)
    expected = arrays(finished[1])
    for name, value in arrays(tmp_path).items():
        np.testing.assert_array_equal(value, expected[name], name)


@contextlib.contextmanager
def unread(opened, monkeypatch):
    """Makes stderr something that is read until the function that this gives is called."""
    reader, writer = opened()
    before = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        with open(2, "w", buffering=1, closefd=False) as stderr, monkeypatch.context() as patch:
            patch.setattr("sys.stderr", stderr)
            yield lambda: os.close(reader)
    finally:
        os.dup2(before, 2)
        os.close(before)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("opened", [os.openpty, os.pipe])
def test_a_closed_terminal_ends_a_run_that_saves(line_task, tmp_path, monkeypatch, opened):
    class Hangup(Signals):
        def append(self, item):
            if len(self) == 3:
                close()
            super().append(item)

    task = line_task()
    task.seen = Hangup(signal.SIGHUP, at=4)
    with unread(opened, monkeypatch) as close, pytest.raises(SystemExit, match="129"):
        run(task, tmp_path, make_config())
    assert saved_steps(tmp_path) == [3, 5]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("opened", [os.openpty, os.pipe])
def test_a_run_goes_on_where_nobody_reads_it_any_more(line_task, tmp_path, monkeypatch, opened):
    """As after a launcher was killed, or under `disown`."""

    class Lost(list):
        def append(self, item):
            super().append(item)
            if len(self) == 2:
                close()

    task = line_task()
    task.seen = Lost()
    with unread(opened, monkeypatch) as close:
        last = run(task, tmp_path, make_config(print_every_steps=1))
    assert last["step"] == STEPS_PER_EPOCH * EPOCHS


@pytest.mark.usefixtures("handlers")
def test_a_signal_ends_an_evaluation_after_the_epoch_was_saved(line_task, tmp_path):
    task = line_task()
    task.evaluated = Signals(signal.SIGTERM, at=1)
    with pytest.raises(SystemExit, match="143"):
        run(task, tmp_path, make_config())
    assert saved_steps(tmp_path) == [3] and len(task.evaluated) == 1
    assert open_checkpoint(tmp_path).state["position"] == {"epoch": 1, "done": []}
    assert "eval/wer" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.usefixtures("handlers")
def test_an_ignored_signal_stays_ignored(line_task, tmp_path):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    task = line_task()
    task.seen = Signals(signal.SIGHUP, at=1)
    assert run(task, tmp_path / "a", max_steps=3, skip_eval=True)["step"] == 3
    task = line_task()
    task.seen = Signals(signal.SIGTERM, at=1)
    with pytest.raises(SystemExit, match="143"):
        run(task, tmp_path / "b")
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("when", ["step", "epoch"])
def test_a_signal_to_one_rank_saves_and_ends_all(line_task, tmp_path, monkeypatch, when):
    class Told(loop.StopSignals):
        polls = 0

        @property
        def received(self):
            self.polls += 1
            return self._processes.rank == 1 and self.polls == (2 if when == "step" else 4)

    monkeypatch.setattr(loop, "stop_signals", lambda *given: contextlib.nullcontext(Told(*given)))
    tasks, config = [line_task(), line_task()], make_config(batch_size=2)
    ended = run_ranks(2, lambda r: run(tasks[r.rank], tmp_path, config, r))
    assert [type(x) for x in ended] == [SystemExit] * 2, ended
    assert [x.code for x in ended] == [143, 143]
    assert saved_steps(tmp_path) == ([2] if when == "step" else [3])
    assert tasks[0].evaluated == []


def test_evaluation_when_asked_and_at_the_end(line_task, tmp_path):
    task = line_task()
    run(task, tmp_path / "a", make_config(eval_every_epochs=2))
    assert [x["step"] for x in lines(tmp_path / "a") if "eval/wer" in x] == [6, 12]
    store = CheckpointStore(tmp_path / "a" / "checkpoints")
    ranked = [c.step for c in store.all() if c.state["metric"] is not None]
    assert ranked == [6, 12], "an old metric does not rank a new checkpoint"
    silent = line_task()
    summary = run(silent, tmp_path / "b", skip_eval=True)
    assert silent.evaluated == []
    assert "eval/wer" not in summary
    best = open_checkpoint(tmp_path / "b")
    assert (best.step, best.state["metric"]) == (12, None)


def test_a_bad_number_stops_the_run_and_names_step_and_row(line_task, tmp_path):
    task = line_task(broken=[4])
    wanted = 1 + int(np.flatnonzero(np.random.default_rng(0).permutation(12) == 4)[0]) // 4
    with refused(match=rf"at step {wanted}, from row-4 \(1 in a row\).*on_non_finite"):
        run(task, tmp_path)
    for weight in task.model.weights:
        assert np.all(np.isfinite(weight.numpy()))


def test_a_bad_number_skips_the_batch_and_is_counted(line_task, tmp_path):
    task = line_task([keras.layers.BatchNormalization(name="norm")], broken=[4])
    summary = run(task, tmp_path, make_config(on_non_finite="skip", max_skipped_steps=1))
    assert summary["train/skipped_steps"] == EPOCHS
    assert lines(tmp_path)[-2]["train/skipped_steps"] == EPOCHS
    for name, value in arrays(tmp_path).items():
        assert np.all(np.isfinite(value)), name
    assert open_checkpoint(tmp_path).state["skipped_steps"] > 0


def test_the_count_of_skipped_steps_survives_a_resume(line_task, tmp_path):
    config = make_config(on_non_finite="skip")
    for resume, steps in ((False, 5), (True, 0)):
        summary = run(line_task(broken=[4]), tmp_path, config, resume=resume, max_steps=steps)
    assert summary["train/skipped_steps"] == EPOCHS


def test_too_many_skipped_in_a_row_end_the_run(line_task, tmp_path):
    task = line_task(broken=range(12))
    with refused(match=r"at step 4, from row-.*\(4 in a row\)"):
        run(task, tmp_path, make_config(on_non_finite="skip", max_skipped_steps=3))


def test_a_float16_overflow_is_no_bad_number(line_task, tmp_path):
    config = TrainingConfig(
        batch_size=4,
        num_epochs=EPOCHS,
        precision="mixed_float16",
        log_every_steps=1,
        loss_scale=LossScaleConfig(initial=2.0**19),
    )
    summary = run(line_task(dtype="mixed_float16"), tmp_path, config)
    assert 0 < summary["train/skipped_steps"] < 12
    assert summary["train/loss_scale"] == 2.0 ** (19 - summary["train/skipped_steps"])
    assert "loss_scale/scale" in arrays(tmp_path)


def test_a_bad_number_under_float16_ends_the_run_when_the_scale_is_down(line_task, tmp_path):
    task = line_task(dtype="mixed_float16", broken=range(12))
    scale = LossScaleConfig(initial=4.0)
    config = TrainingConfig(batch_size=4, precision="mixed_float16", loss_scale=scale)
    with refused(match=r"at step 2, from row-.*\(2 in a row\)"):  # the second finds it at 1
        run(task, tmp_path, config)


def test_another_precision_goes_on(line_task, tmp_path):
    run(line_task(), tmp_path, max_steps=6)
    config = make_config(precision="mixed_float16")
    run(line_task(dtype="mixed_float16"), tmp_path, config, resume=True, max_steps=9)
    assert [x["step"] for x in lines(tmp_path) if "train/loss_scale" in x] == [7, 8, 9]
    run(line_task(), tmp_path, resume=True)
    found = losses(tmp_path)
    assert [step for step, _ in found] == list(range(1, 13))
    # A step that overflowed has no loss.
    assert max(x for step, x in found if step > 6 and x) < max(x for step, x in found if step <= 6)


def test_training_fits_the_line(line_task, tmp_path):
    config = make_config(num_epochs=12)
    task = line_task()
    run(task, tmp_path, config, skip_eval=True)
    found = [loss for _, loss in losses(tmp_path)]
    assert np.mean(found[-3:]) < 0.5 * np.mean(found[:3])


def test_the_profiler_leaves_a_trace(line_task, tmp_path):
    run(line_task(), tmp_path, make_config(), use_profiler=True, skip_eval=True, max_steps=4)
    assert list(tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb"))


@pytest.mark.parametrize(("use_profiler", "max_steps"), [(True, 0), (True, 4), (False, 0)])
def test_steps_2_to_7_are_traced_when_asked(
    line_task, tmp_path, monkeypatch, use_profiler, max_steps
):
    task, calls = line_task(), []
    profiler = tf.profiler.experimental
    monkeypatch.setattr(profiler, "start", lambda place: calls.append((len(task.seen), place)))
    monkeypatch.setattr(profiler, "stop", lambda: calls.append(len(task.seen)))
    run(task, tmp_path, use_profiler=use_profiler, skip_eval=True, max_steps=max_steps)
    expected = [(1, str(tmp_path / "tensorboard")), max_steps or 7]
    assert calls == (expected if use_profiler else [])


# Several ranks. Adam's first steps divide gradients by themselves: with a large epsilon sums in
# another order stay close.
FOR_RANKS = {"num_epochs": 2, "optimizer": {"epsilon": 1e-2}}


def perturb(task):
    """Gives a model other weights, as it has on a rank that did not read what rank 0 did."""
    for weight in task.model.weights:
        if weight.dtype == "float32":
            weight.assign(weight.numpy() + 1.0)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, line_task):
    """What several ranks must repeat: one process with the whole batch, a checkpoint every step."""
    directory = tmp_path_factory.mktemp("runs") / "alone"
    run(line_task(), directory, make_config({"every_steps": 1}, **FOR_RANKS))
    return directory


@pytest.mark.parametrize("resumed_at", [0, 2])
def test_two_ranks_equal_one_process(alone, line_task, tmp_path, resumed_at):
    """From the start, and from where one process stopped; only rank 0 read its checkpoint."""
    config = make_config(batch_size=2, **FOR_RANKS)
    tasks = [line_task(), line_task()]
    perturb(tasks[1])
    checkpoints = {c.step: c for c in CheckpointStore(alone / "checkpoints").all()}

    def work(processes):
        resumed = checkpoints.get(resumed_at) if processes.rank == 0 else None
        return run(tasks[processes.rank], tmp_path, config, processes, resumed=resumed)

    results = run_ranks(2, work)
    assert [result["step"] for result in results] == [6, 6]
    assert results[0]["eval/wer"] == results[1]["eval/wer"]
    for mine, others, both in zip(
        tasks[0].seen, tasks[1].seen, np.array_split(whole_order(), 6)[resumed_at:], strict=True
    ):
        assert (mine, others) == (both[::2].tolist(), both[1::2].tolist())
    expected = losses(alone)[resumed_at:]
    assert [step for step, _ in losses(tmp_path)] == [step for step, _ in expected]
    assert dict(losses(tmp_path)) == pytest.approx(dict(expected), rel=1e-5)
    found = arrays(tmp_path)
    for name, value in arrays(alone).items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
    state = open_checkpoint(tmp_path, newest=True).state
    assert state["config"] == {"seed": 0, "world_size": 2, "accumulate_steps": 1}


def whole_order():
    """Rows of two epochs in the order in which they are trained on."""
    return np.concatenate([np.random.default_rng(epoch).permutation(12) for epoch in range(2)])


def test_ranks_differ_in_dropout_and_agree_on_statistics(line_task, tmp_path):
    config, tasks = make_config(batch_size=2, num_epochs=1), []
    seeds, evaluated = [None, None], []
    for _ in range(2):
        tasks.append(line_task(random_layers()))

    def statistics(task):
        return [v.numpy() for v in task.model.get_layer("norm").non_trainable_variables]

    for task in tasks:
        task.evaluators = {
            "eval": lambda task=task: {"wer": float(np.sum(statistics(task)[0]))},
        }

    def work(processes):
        task = tasks[processes.rank]
        result = run(task, tmp_path, config, processes)
        evaluated.append(result["eval/wer"])
        seeds[processes.rank] = task.model.get_layer("dropout_a").seed_generator.state.numpy()

    assert run_ranks(2, work) == [None, None]
    assert seeds[0][0] != seeds[1][0]
    assert evaluated[0] == evaluated[1] != 0.0
    np.testing.assert_array_equal(statistics(tasks[0]), statistics(tasks[1]))
    saved = arrays(tmp_path)
    np.testing.assert_array_equal(
        saved["model/line/norm/moving_mean"], statistics(tasks[0])[0], "saved after the mean"
    )


def test_ranks_save_what_they_have_in_common(line_task, tmp_path):
    """Means of what moved apart, and a position that counts the rows of all."""
    tasks = [line_task([keras.layers.BatchNormalization(name="norm")]) for _ in range(2)]
    config, options = make_config(batch_size=2), {"skip_eval": True, "max_steps": 1}
    run_ranks(2, lambda r: run(tasks[r.rank], tmp_path, config, r, **options))
    inputs = tasks[0].inputs[whole_order()[:4]]
    moved = 0.01 * inputs.mean(axis=0)
    for task in tasks:
        found = task.model.get_layer("norm").moving_mean.numpy()
        np.testing.assert_allclose(found, moved, rtol=1e-4, atol=1e-8)
    saved = arrays(tmp_path)
    np.testing.assert_allclose(saved["model/line/norm/moving_mean"], moved, rtol=1e-4, atol=1e-8)
    average = moved * 9 / 11  # from zero with a first decay of 2/11
    np.testing.assert_allclose(
        saved["average/line/norm/moving_mean"], average, rtol=1e-4, atol=1e-8
    )
    state = open_checkpoint(tmp_path, newest=True).state
    assert state["position"] == {"epoch": 0, "done": [[4, 1]]}


def test_ranks_that_resume_share_the_loss_scale(line_task, tmp_path):
    def config(initial, batch_size):
        scale = LossScaleConfig(initial=initial, growth_steps=1)
        options = {"precision": "mixed_float16", "batch_size": batch_size}
        return TrainingConfig(**options, num_epochs=1, loss_scale=scale)

    tasks = [line_task(dtype="mixed_float16") for _ in range(3)]
    options = {"skip_eval": True, "max_steps": 1}
    assert run(tasks[2], tmp_path, config(512.0, 4), **options)["train/loss_scale"] == 1024.0
    checkpoint = CheckpointStore(tmp_path / "checkpoints").latest()

    def work(processes):
        resumed = checkpoint if processes.rank == 0 else None
        options = {"skip_eval": True, "max_steps": 2, "resumed": resumed}
        return run(tasks[processes.rank], tmp_path, config(8.0, 2), processes, **options)

    assert [x["train/loss_scale"] for x in run_ranks(2, work)] == [2048.0, 2048.0]


def test_an_overflow_of_one_rank_is_skipped_by_all_and_all_recover(line_task, tmp_path):
    tasks = [line_task(dtype="mixed_float16") for _ in range(2)]
    for task in tasks:
        task.targets[7] = 1e5  # of one row, so of one rank at a time
    options = {"precision": "mixed_float16", "batch_size": 2, "num_epochs": 4}
    config = make_config(loss_scale=LossScaleConfig(initial=16.0), **options)
    first, second = run_ranks(2, lambda r: run(tasks[r.rank], tmp_path, config, r))
    assert first["train/skipped_steps"] == second["train/skipped_steps"] > 0
    assert first["train/loss_scale"] == second["train/loss_scale"] < 16.0
    assert first["step"] > first["train/skipped_steps"]
    for mine, theirs in zip(*(task.model.weights for task in tasks), strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert np.isfinite(tasks[0].model.weights[0].numpy()).all()


def test_a_bad_number_of_any_rank_is_told_by_the_first(line_task, tmp_path):
    tasks = [line_task(broken=[int(whole_order()[1])]) for _ in range(2)]  # a row of rank 1

    def work(processes):
        run(tasks[processes.rank], tmp_path, make_config(batch_size=2), processes)

    first, second = run_ranks(2, work)
    assert isinstance(first, UserError)
    assert f"at step 1, from row-{whole_order()[1]} (1 in a row)" in str(first)
    assert isinstance(second, SystemExit)
    assert second.code == 2


@pytest.mark.parametrize("max_steps", [0, 3])
def test_the_time_of_a_step_is_written_for_use_performance(line_task, tmp_path, max_steps):
    folder = tmp_path / "without"
    run(line_task(), folder, make_config(), skip_eval=True, max_steps=max_steps)
    assert not list(folder.rglob("summary/summary.json"))
    options = {"use_performance": True, "skip_eval": True, "max_steps": max_steps}
    config = make_config()
    run(line_task(), tmp_path / "with", config, **options)
    (path,) = (tmp_path / "with").rglob("summary/summary.json")
    stats = json.loads(path.read_text())["overall_stats"]
    assert stats["batch_size"] == config.batch_size and stats["e2e"] > 0
    assert stats["throughput_mean"] == pytest.approx(config.batch_size / stats["e2e"])
