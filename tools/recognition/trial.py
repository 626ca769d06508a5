"""Training steps of a recognizer on made-up batches, to measure their memory and time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tools.training.blocks import prepare_blocks
from tools.training.config import TrainingConfig
from tools.training.distributed import SingleProcess
from tools.training.kernels import choose_kernels
from tools.training.optimizer import Optimizer
from tools.training.precision import LossScale
from tools.training.step import TrainStep, moving_statistics
from tools.training.task import LossSums

RATE = 1e-5  # learning rate of a trial


@dataclass(frozen=True, slots=True)
class Objective:
    """Model and loss of a config, without data.

    Attributes:
        model: built model.
        loss: see `tools.training.task.Task.loss`.
        blocks: see `tools.training.task.Task.blocks`.
        num_uniforms: function of the samples of a batch that returns the number of random numbers
            that the model takes for each utterance.
    """

    model: keras.Model
    loss: Callable[[Mapping[str, tf.Tensor], bool], LossSums]
    blocks: Sequence[keras.Layer]
    num_uniforms: Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a batch: utterances, samples of each, labels of each."""

    rows: int
    samples: int
    labels: int


def noise_batch(objective: Objective, sizes: Sizes, vocabulary_size: int) -> dict[str, tf.Tensor]:
    """Returns a batch of noise with random labels; see `training_data.training_data`.

    Args:
        objective: model and loss.
        sizes: sizes of the batch, without padding.
        vocabulary_size: number of symbols V; labels are from 1 to V - 1.
    """
    rng, rows = np.random.default_rng(0), sizes.rows
    uniforms = (rows, objective.num_uniforms(sizes.samples))
    batch = {
        "waveforms": rng.normal(0, 0.1, (rows, sizes.samples)).astype("f4"),
        "lengths": np.full(rows, sizes.samples, np.int32),
        "uniforms": rng.uniform(size=uniforms).astype("f4"),
        "labels": rng.integers(1, vocabulary_size, (rows, sizes.labels), dtype=np.int32),
        "label_lengths": np.full(rows, sizes.labels, np.int32),
        "index": np.arange(rows),
    }
    return {name: tf.constant(value) for name, value in batch.items()}


def make_step(
    objective: Objective, config: TrainingConfig, batch: Mapping[str, tf.Tensor]
) -> TrainStep:
    """Returns the compiled training step, for batches with any number of rows and any lengths.

    Args:
        objective: model and loss.
        config: section `training` of the config.
        batch: an example of a batch.
    """
    model = objective.model
    statistics = moving_statistics(model)
    choose_kernels(model)
    prepare_blocks(objective.blocks, config)
    optimizer = Optimizer(config.optimizer, model.trainable_variables, statistics)
    scale = LossScale(config.loss_scale, config.precision)
    step = TrainStep(objective, config, SingleProcess(), optimizer, loss_scale=scale)
    spec = {name: tf.TensorSpec([None] * x.shape.rank, x.dtype) for name, x in batch.items()}
    spec["uniforms"] = tf.TensorSpec([None, batch["uniforms"].shape[1]])
    step.compile(spec)
    return step


def run_trial(
    make_objective: Callable[[Any, int], Objective], config: Any, vocabulary_size: int, sizes: Sizes
) -> None:
    """Runs two training steps on a batch of noise.

    The second step has the memory that the allocator keeps after the first one.

    Args:
        make_objective: function of a config and the size of its vocabulary.
        config: config of the family, with a section `training`.
        vocabulary_size: number of symbols V.
        sizes: sizes of the batch.
    """
    keras.utils.set_random_seed(config.training.seed)
    objective = make_objective(config, vocabulary_size)
    batch = noise_batch(objective, sizes, vocabulary_size)
    step = make_step(objective, config.training, batch)
    for _ in range(2):
        float(step.accumulate([batch], RATE).loss)
