"""A task small enough to be trained in the blink of an eye: linear regression on made-up rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tools.training.task import LossSums, Position, Shard, TrainData

WIDTH = 3


class LineTask:
    """Fits a line; `index` -1 marks a masked row, NaN inputs a broken one.

    Attributes:
        evaluated: results of the evaluator, in order.
        seen: rows of every step's batch.
        readers: "open" or "closed" for every iterator over the training set.

    Args:
        layers: between the inputs and the output layer.
        num_rows: of the training set.
        broken: indices of rows with NaN.
        dtype: Keras policy of the output layer.
    """

    blocks = ()

    def __init__(self, layers=(), num_rows=12, broken=(), dtype="float32"):
        rng = np.random.default_rng(5)
        self.inputs = rng.normal(size=(num_rows, WIDTH)).astype("float32")
        self.targets = (self.inputs @ [1.0, -2.0, 0.5] + 0.3).astype("float32")
        self.inputs[list(broken)] = np.nan
        keras.utils.set_random_seed(3)
        output = keras.layers.Dense(1, dtype=dtype, name="output")
        self.model = keras.Sequential([keras.Input((WIDTH,)), *layers, output], name="line")
        self.assets = {"vocabulary.json": "[]"}
        self.evaluators = {"eval": self.evaluate}
        self.report, self.data_digest = ["made-up rows"], "line"
        self.evaluated, self.seen, self.readers = [], [], []

    def batch(self, indices):
        """Rows of the training set, -1 for a masked one."""
        indices = np.asarray(indices)
        inputs = np.where(indices[:, None] >= 0, self.inputs[indices], 0)
        return {
            "inputs": tf.constant(inputs, tf.float32),
            "targets": tf.constant(self.targets[indices]),
            "index": tf.constant(indices, tf.int64),
        }

    def train_data(self, shard: Shard, position: Position, num_epochs: int) -> TrainData:
        size = shard.global_batch_size

        def plan(epoch):
            order = np.random.default_rng(epoch).permutation(len(self.targets))
            done = position.done if epoch == position.epoch else ()
            order = order[sum(rows * steps for rows, steps in done) :]
            return [order[i : i + size] for i in range(0, len(order), size)]

        def rows():
            number = len(self.readers)
            self.readers.append("open")
            try:
                for epoch in range(position.epoch, num_epochs):
                    for indices in plan(epoch):
                        yield self.batch(indices[shard.rank :: shard.size])
            finally:
                self.readers[number] = "closed"

        def names(batch):
            self.seen.append(batch["index"].numpy().tolist())
            return [f"row-{i}" for i in batch["index"].numpy()]

        spec = {
            "inputs": tf.TensorSpec([None, WIDTH], tf.float32),
            "targets": tf.TensorSpec([None], tf.float32),
            "index": tf.TensorSpec([None], tf.int64),
        }
        return TrainData(
            tf.data.Dataset.from_generator(rows, output_signature=spec),
            lambda epoch: len(plan(epoch)),
            sum(len(plan(epoch)) for epoch in range(position.epoch, num_epochs)),
            names,
        )

    def layer_depth(self, path):
        return 1 if "output" in path else 0

    def loss(self, batch, training):
        counts = tf.cast(batch["index"] >= 0, tf.float32)
        predicted = self.model(batch["inputs"], training=training)[:, 0]
        errors = tf.cast(predicted, tf.float32) - batch["targets"]
        losses = counts * tf.square(errors)
        metrics = {"absolute_error": tf.reduce_sum(counts * tf.abs(errors))}
        return LossSums(tf.reduce_sum(losses), tf.reduce_sum(counts), losses, metrics)

    def evaluate(self):
        """Remembers the output layer's bias, and gives it as the error rate."""
        bias = float(self.model.layers[-1].bias.numpy()[0])
        self.evaluated.append(bias)
        return {"wer": bias}


@pytest.fixture(scope="session")
def line_task():
    """The task's class."""
    return LineTask


@pytest.fixture(scope="session")
def variables_of():
    """Gives copies of all variables of a model that are no random generator's."""

    def copy(model):
        return {v.path: np.array(v) for v in model.variables if "seed" not in v.path}

    return copy
