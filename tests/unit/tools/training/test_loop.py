"""The loop on a task of one dense layer: records, checkpoints, bad numbers, and resuming."""

import itertools
import json
import shutil

import keras
import numpy as np
import pytest

from tools.errors import UserError
from tools.training import loop
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
        optimizer=OptimizerConfig(average_decay=0.5, **(optimizer or {})),
        schedule=ScheduleConfig(name="cosine", peak=0.05, warmup_steps=4),
        checkpoint=CheckpointConfig(**{"keep_last": 100, **(checkpoint or {})}),
    )


def run(task, directory, config=None, **options):
    directory.mkdir(exist_ok=True)
    folders = RunFolders.inside(directory)
    if options.pop("resume", False):
        options["resumed"] = folders.store().latest()
    return train(task, config or make_config(), SingleProcess(), folders, LoopOptions(**options))


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
    assert summary["perf/samples_per_second"] > 0
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
    with pytest.raises(UserError, match="random layers"):
        run(task, directory, resume=True)


def test_a_resume_with_another_model_is_refused(finished, line_task, tmp_path):
    directory = tmp_path / "other"
    shutil.copytree(finished[1], directory)
    with pytest.raises(UserError, match="unknown line/norm/beta"):
        run(line_task(), directory, resume=True)


def test_only_between_epochs_a_resume_may_have_another_seed(finished, line_task, tmp_path):
    """Within one, the seed tells which rows are still to come."""
    config = make_config(seed=5, num_epochs=3)
    store = CheckpointStore(finished[1] / "checkpoints")
    middle, end = (c for c in store.all() if c.step in (5, 6))
    with pytest.raises(UserError, match=r"seed 0, which ordered the epoch .*step-00000005.*: 5\."):
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
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(seconds)))
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


def test_a_checkpoint_that_cannot_be_written_ends_the_run(line_task, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(UserError, match="No space left"):
        run(line_task(), tmp_path)


def test_evaluation_when_asked_and_at_the_end(line_task, tmp_path):
    task = line_task()
    run(task, tmp_path / "a", make_config(eval_every_epochs=3))
    assert [x["step"] for x in lines(tmp_path / "a") if "eval/wer" in x] == [9, 12]
    silent = line_task()
    summary = run(silent, tmp_path / "b", skip_eval=True)
    assert silent.evaluated == []
    assert "eval/wer" not in summary
    best = open_checkpoint(tmp_path / "b")
    assert (best.step, best.state["metric"]) == (12, None)


def test_an_old_metric_does_not_rank_a_new_checkpoint(line_task, tmp_path):
    run(line_task(), tmp_path, make_config(eval_every_epochs=3))
    metrics = {c.step: c.state["metric"] for c in CheckpointStore(tmp_path / "checkpoints").all()}
    assert [step for step, metric in metrics.items() if metric is not None] == [9, 12]


def test_a_bad_number_stops_the_run_and_names_step_and_row(line_task, tmp_path):
    task = line_task(broken=[4])
    wanted = 1 + int(np.flatnonzero(np.random.default_rng(0).permutation(12) == 4)[0]) // 4
    with pytest.raises(UserError) as caught:
        run(task, tmp_path)
    message = str(caught.value)
    assert f"at step {wanted}, from row-4 (1 in a row)" in message
    assert "on_non_finite" in message
    assert "\n" not in message
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
    with pytest.raises(UserError, match=r"at step 4, from row-.*\(4 in a row\)"):
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


def test_another_precision_goes_on(line_task, tmp_path):
    run(line_task(), tmp_path, max_steps=6)
    config = make_config(precision="mixed_float16")
    run(line_task(dtype="mixed_float16"), tmp_path, config, resume=True, max_steps=9)
    assert [x["step"] for x in lines(tmp_path) if "train/loss_scale" in x] == [7, 8, 9]
    run(line_task(), tmp_path, resume=True)
    found = [loss for _, loss in losses(tmp_path)]
    assert len(found) == 12
    assert max(found[6:]) < max(found[:6])


def test_training_fits_the_line(line_task, tmp_path):
    config = make_config(num_epochs=12)
    task = line_task()
    run(task, tmp_path, config, skip_eval=True)
    found = [loss for _, loss in losses(tmp_path)]
    assert np.mean(found[-3:]) < 0.5 * np.mean(found[:3])


@pytest.mark.parametrize("max_steps", [0, 4])
def test_the_profiler_leaves_a_trace(line_task, tmp_path, max_steps):
    options = {"use_profiler": True, "skip_eval": True, "max_steps": max_steps}
    run(line_task(), tmp_path, make_config(), **options)
    assert list(tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb"))
