"""Gradients of several batches for one update, on a task of one dense layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.accumulation import check_parts, compile_for, make_step
from tests.support.errors import refused
from tools.training.checkpoint import RunFolders, open_checkpoint
from tools.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from tools.training.distributed import SingleProcess
from tools.training.loop import LoopOptions, train
from tools.training.task import group_sizes


def run(task, directory, accumulate_steps, batch_size=2, resume=False, **options):
    """Trains two epochs of 12 rows."""
    config = TrainingConfig(
        batch_size=batch_size,
        accumulate_steps=accumulate_steps,
        num_epochs=2,
        log_every_steps=1,
        optimizer=OptimizerConfig(average_decay=0.5, epsilon=1e-2, clip_norm=0.5),
        schedule=ScheduleConfig(name="cosine", peak=0.05, warmup_steps=1),
        checkpoint=CheckpointConfig(every_steps=1, keep_last=100),
    )
    directory.mkdir(exist_ok=True)
    folders = RunFolders.inside(directory)
    if resume:
        options["resumed"] = folders.store().latest()
    return train(task, config, SingleProcess(), folders, options=LoopOptions(**options))


def arrays(directory):
    checkpoint = open_checkpoint(directory, newest=True)
    return checkpoint.arrays("model") | checkpoint.arrays("average")


def test_sizes_of_groups():
    assert group_sizes(7, 3) == [3, 3, 1]
    assert group_sizes(6, 3) == [3, 3]
    assert group_sizes(2, 3) == [2]
    assert group_sizes(0, 3) == []


@pytest.mark.parametrize("num_parts", [2, 4])
def test_parts_equal_the_whole(line_task, num_parts):
    task = line_task()
    check_parts([line_task(), task], task.batch([0, 1, 2, 3, 4, -1, 6, 7]), num_parts)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_parts_of_other_sizes_weigh_as_much_as_their_rows(line_task, precision):
    """As the last, incomplete group of an epoch, and with a factor of the loss that overflows."""
    tasks = [line_task(dtype=precision), line_task(dtype=precision)]
    steps = [
        make_step(tasks[0], 1, precision=precision),
        make_step(tasks[1], 3, precision=precision),
    ]
    for step in steps:
        compile_for(step, tasks[0].batch([0]))
        step.loss_scale.scale.assign(8.0 if precision == "mixed_float16" else 1.0)
    whole = steps[0](tasks[0].batch(range(6)), 0.1)
    added = steps[1].accumulate([tasks[1].batch(rows) for rows in ([0], [1, 2, 3], [4, 5])], 0.1)
    tolerance = 1e-5 if precision == "float32" else 5e-3
    np.testing.assert_allclose(added.gradient_norm, whole.gradient_norm, rtol=tolerance)
    np.testing.assert_allclose(added.loss, whole.loss, rtol=tolerance)
    assert float(added.weight) == 6.0
    for ours, expected in zip(*(t.model.trainable_variables for t in tasks), strict=True):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=tolerance)


class Counter(SingleProcess):
    """Counts the sums over processes."""

    sums = 0

    def sum(self, tensors):
        self.sums += 1
        return tensors


@pytest.fixture
def eager_functions():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_processes_sum_once_for_an_update(line_task, eager_functions):
    task, processes = line_task(), Counter()
    step = make_step(task, 3, processes)
    compile_for(step, task.batch([0]))
    step.accumulate([task.batch([row]) for row in range(3)], 0.1)
    assert processes.sums == 1


def test_a_bad_batch_undoes_its_whole_group(line_task, variables_of):
    task = line_task([keras.layers.BatchNormalization()], broken=[5])
    step = make_step(task, 2)
    compile_for(step, task.batch([0]))
    assert bool(step.accumulate([task.batch([0, 1]), task.batch([2, 3])], 0.1).finite)
    before = variables_of(task.model)
    result = step.accumulate([task.batch([0, 1]), task.batch([4, 5])], 0.1)
    assert not bool(result.finite)
    np.testing.assert_array_equal(np.isfinite(result.examples), [True, True, False, False])
    for name, value in variables_of(task.model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_a_run_equals_one_with_larger_batches(line_task, tmp_path):
    """The last update of an epoch has one batch of 4 rows in both runs."""
    small, large = line_task(), line_task()
    summary = run(small, tmp_path / "small", 2, batch_size=4)
    assert summary["step"] == run(large, tmp_path / "large", 1, batch_size=8)["step"] == 4
    assert [row for rows in small.seen for row in rows] == [r for rows in large.seen for r in rows]
    for name, value in arrays(tmp_path / "large").items():
        np.testing.assert_allclose(arrays(tmp_path / "small")[name], value, atol=1e-6, err_msg=name)
    state = open_checkpoint(tmp_path / "small" / "checkpoints" / "step-00000001").state
    assert state["position"] == {"epoch": 0, "done": [[4, 2]]}


def test_resumed_equals_uninterrupted(line_task, tmp_path):
    def layers():
        return [keras.layers.Dropout(0.3), keras.layers.BatchNormalization(name="norm")]

    run(line_task(layers()), tmp_path / "whole", 4)
    for steps in (1, 2, 0):
        task = line_task(layers())
        run(task, tmp_path / "parts", 4, max_steps=steps, resume=steps != 1)
    for name, value in arrays(tmp_path / "whole").items():
        np.testing.assert_array_equal(arrays(tmp_path / "parts")[name], value, err_msg=name)


def test_another_size_of_groups_is_refused_inside_a_group(line_task, tmp_path):
    run(line_task(), tmp_path, 2, max_steps=1)
    with refused(match=r"training.accumulate_steps 2.*or a divisor of its 2 batches.*: 3\."):
        run(line_task(), tmp_path, 3, resume=True)
    run(line_task(), tmp_path, 1, resume=True, max_steps=4)  # every batch ends a group
    with refused(match=r"divisor of its 5 batches.*: 2\."):
        run(line_task(), tmp_path, 2, resume=True, max_steps=6)


def test_steps_are_counted_by_updates(line_task, tmp_path):
    assert run(line_task(), tmp_path, 4)["step"] == 4  # 6 batches an epoch: groups of 4 and 2
