"""Updates of a task from one batch and from parts of it, and gradients of rematerialized blocks."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tools.training.config import OptimizerConfig, TrainingConfig
from tools.training.distributed import SingleProcess
from tools.training.optimizer import Optimizer
from tools.training.precision import LossScale
from tools.training.rematerialize import rematerialize
from tools.training.step import TrainStep, moving_statistics, seed_model


def make_step(task, accumulate_steps=1, processes=None, precision="float32", clip_norm=0.5):
    """Returns a step with clipping, decay and averages. A large epsilon keeps sums in another order
    close, which Adam's first steps divide by themselves."""
    config = TrainingConfig(
        accumulate_steps=accumulate_steps,
        precision=precision,
        optimizer=OptimizerConfig(
            weight_decay=0.1, clip_norm=clip_norm, average_decay=0.5, epsilon=1e-2
        ),
    )
    model = task.model
    optimizer = Optimizer(config.optimizer, model.trainable_variables, moving_statistics(model))
    scale = LossScale(config.loss_scale, precision)
    return TrainStep(task, config, processes or SingleProcess(), optimizer, loss_scale=scale)


def compile_for(step, batch: Mapping[str, tf.Tensor]) -> None:
    """Compiles a step for batches like this one, of any size."""
    step.compile({name: tf.TensorSpec([None, *x.shape[1:]], x.dtype) for name, x in batch.items()})


def check_parts(tasks: Sequence, batch: Mapping[str, tf.Tensor], num_parts: int) -> None:
    """Checks that two updates from parts of a batch equal two from the whole batch.

    Args:
        tasks: two equal tasks without dropout.
        batch: a batch of both; its size is a multiple of `num_parts`.
        num_parts: number of parts.
    """
    parts = [
        {name: tf.split(x, num_parts)[number] for name, x in batch.items()}
        for number in range(num_parts)
    ]
    found = []
    for task, count, batches in zip(tasks, (1, num_parts), ([batch], parts), strict=True):
        for layer in task.model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        step = make_step(task, count)
        compile_for(step, batch)
        results = [step.accumulate(batches, 0.01) for _ in range(2)]
        found.append((results, step.optimizer.state(), task.model.trainable_variables))
    for whole, added in zip(found[0][0], found[1][0], strict=True):
        assert float(whole.gradient_norm) > 0.5, "nothing is clipped"
        for name in ("loss", "weight", "gradient_norm", "examples"):
            ours, expected = getattr(added, name), getattr(whole, name)
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5, err_msg=name)
        for name, value in whole.metrics.items():
            np.testing.assert_allclose(added.metrics[name], value, rtol=1e-5, err_msg=name)
    for group, arrays in found[0][1].items():
        for name, value in arrays.items():
            ours = found[1][1][group][name]
            np.testing.assert_allclose(ours, value, atol=1e-5, err_msg=f"{group}/{name}")
    for ours, expected in zip(found[1][2], found[0][2], strict=True):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-5, err_msg=ours.path)


def check_rematerialized(tasks: Sequence, batch: Mapping[str, tf.Tensor]) -> None:
    """Checks that rematerialized blocks have the loss, gradients and statistics of other blocks.

    Args:
        tasks: two equal tasks.
        batch: a batch of both.
    """
    rematerialize(tasks[1].blocks)
    found = []
    for task in tasks:
        seed_model(task.model, 1, 0, None)
        variables = [v.value for v in task.model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = task.loss(batch, training=True).loss_sum
        gradients = tape.gradient(loss, variables)
        states = [v.value for v in task.model.non_trainable_variables]
        zeros = [tf.zeros_like(v) for v in variables]
        gradients = [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]
        found.append([np.array(tf.convert_to_tensor(x)) for x in (loss, *gradients, *states)])
    for expected, ours in zip(*found, strict=True):
        largest = max(1.0, float(np.abs(expected).max(initial=0.0)))
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * largest)
