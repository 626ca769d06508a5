"""A fourth family in one file: a classifier of points, for the contracts between the parts.

It trains, exports, converts and is opened as a session with nothing but what `tools` offers to
every family. Points are of class 1 where their sum is positive.
"""

import contextlib
import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tools.config.command_line import CommandLine
from tools.config.loader import load, to_yaml
from tools.config.making_options import from_flags
from tools.conversion.protocol import Examples
from tools.conversion.saved_model import write_saved_model
from tools.inference.opening import open_runner
from tools.inference.session import Session
from tools.training.checkpoint import RunFolders, restore
from tools.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from tools.training.data import Epochs, row_names
from tools.training.program import ProgramOptions, add_program_flags, run_training
from tools.training.task import LossSums

WIDTH = 4


@dataclasses.dataclass(frozen=True, slots=True)
class ToyConfig:
    """A config with the one section that every family has."""

    num_points: int = 64
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(
            batch_size=8,
            num_epochs=4,
            optimizer=OptimizerConfig(name="adam"),
            schedule=ScheduleConfig(name="constant", peak=0.05, warmup_steps=0),
        )
    )


def load_config(path=None, overrides=None) -> ToyConfig:
    return load(ToyConfig, path, overrides or {})


def build_model() -> keras.Model:
    return keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(2, name="head")], name="toy")


def points(count: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(0).normal(size=(count, WIDTH)).astype("float32")
    return values, (values.sum(axis=1) > 0).astype("int32")


class ToyTask:
    """Implements `tools.training.task.Task`."""

    blocks = ()  # no repeated layers

    def __init__(self, config: ToyConfig):
        self.config, self.report = config, ["made-up points"]
        self.data_digest = "points"
        self.points, self.labels = points(config.num_points)
        keras.utils.set_random_seed(1)
        self.model = build_model()
        self.assets = {"config.yml": to_yaml(config)}
        self.evaluators = {"eval": self.evaluate}

    def train_data(self, shard, position, num_epochs):
        size, seed = shard.global_batch_size, self.config.training.seed

        def make_plan(epoch, done):
            order = np.random.default_rng((seed, epoch)).permutation(len(self.points))
            order = order[sum(rows * steps for rows, steps in done) :]
            return [order[i : i + size] for i in range(0, len(order) - size + 1, size)]

        epochs = Epochs(make_plan, position, num_epochs, seed)

        def batches():
            for _, plan in epochs:
                for rows in plan:
                    mine = rows[shard.rank :: shard.size]
                    yield {
                        "points": self.points[mine],
                        "labels": self.labels[mine],
                        "index": mine,
                        "reason": [b""] * len(mine),
                    }

        signature = {
            "points": tf.TensorSpec([None, WIDTH], tf.float32),
            "labels": tf.TensorSpec([None], tf.int32),
            "index": tf.TensorSpec([None], tf.int64),
            "reason": tf.TensorSpec([None], tf.string),
        }
        dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
        names = [f"point-{number}" for number in range(len(self.points))]
        return epochs.train_data(dataset, row_names("index", names, names))

    def layer_depth(self, path):
        return 0

    def loss(self, batch, training):
        logits = self.model(batch["points"], training=training)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
        count = tf.cast(tf.size(losses), tf.float32)
        return LossSums(tf.reduce_sum(losses), count, losses, {})

    def evaluate(self):
        found = self.model(self.points).numpy().argmax(axis=1)
        return {"wer": float(np.mean(found != self.labels))}


class ToyRun:
    """Implements `tools.training.program.TrainingRun`."""

    start_epoch, run_eagerly, use_gpu = 0, False, None

    def __init__(self, config: ToyConfig, output_dir: str):
        self.config, self.training, self.directory = config, config.training, Path(output_dir)

    def check(self, processes):
        pass

    def folders(self):
        return contextlib.nullcontext(RunFolders.inside(self.directory))

    def resumed(self, folders):
        return None

    def make_task(self, processes, resumed, needs_evaluation):
        return ToyTask(self.config)

    def check_resumed(self, resumed, task):
        pass

    def describe(self, task, processes):
        return json.dumps(dataclasses.asdict(self.config))

    def prepare(self, folders, task):
        folders.records.mkdir(parents=True, exist_ok=True)

    def log_file(self, folders, processes):
        return None


def train(argv) -> int:
    """The family's training program."""
    flags = CommandLine("toy.train", "Trains a toy.")
    flags.string("output_dir", None, "Run directory.")
    add_program_flags(flags)
    values, _ = flags.parse(argv)
    options = from_flags(ProgramOptions, values)
    return run_training(lambda: ToyRun(load_config(), values.output_dir), options)


def export_checkpoint(checkpoint, output_dir):
    model = build_model()
    restore({v.path: v for v in model.weights}, checkpoint.weights(), str(checkpoint.path))
    spec = tf.TensorSpec([None, WIDTH], tf.float32, "points")
    function = tf.function(lambda points: {"logits": model(points)}, input_signature=[spec])
    pipeline = {"family": "toy", "convert": {"serving_default": {"dim_range": {}}}}
    write_saved_model(output_dir, {"serving_default": function}, model.weights, pipeline)


def calibration_examples(pipeline, data_dir, num_samples, judged):
    values, _ = points(num_samples)
    return Examples([{"points": row[None]} for row in values])


class ToySession(Session):
    """Tells the class of points."""

    def classify(self, values):
        return self.run({"points": values})["logits"].argmax(axis=1)


def open_session(model_dir, options):
    return ToySession(open_runner(model_dir, options, calibration_examples))
