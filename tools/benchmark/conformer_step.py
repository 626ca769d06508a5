"""A training step of the speech Conformer on noise, for the benchmarks."""

import dataclasses
import functools
import time
from dataclasses import dataclass

from conformer.config import ConformerConfig
from tools.benchmark.own_process import median_seconds
from tools.memory import peak_resident_bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Sizes of a batch: utterances, seconds of each, labels of each, symbols of the vocabulary."""

    size: int
    seconds: float
    labels: int
    vocabulary: int

    def num_samples(self, rate_hz: int) -> int:
        """Returns the samples of each utterance."""
        return round(self.seconds * rate_hz)


def with_options(
    config: ConformerConfig, kind: str, precision: str, rematerialize: str
) -> ConformerConfig:
    """Returns a config with another loss, precision and rematerialization."""
    return dataclasses.replace(
        config,
        loss=dataclasses.replace(config.loss, kind=kind),
        training=dataclasses.replace(
            config.training, precision=precision, rematerialize=rematerialize
        ),
    )


class OurStep:
    """The training step of a new model on one batch of noise.

    Args:
        config: configuration of model, loss and training.
        batch: sizes of the batch.
    """

    def __init__(self, config: ConformerConfig, batch: Batch):
        import keras  # here, so that the calling process need not load TensorFlow

        from conformer.task import make_objective
        from tools.recognition.trial import RATE, Sizes, make_step, noise_batch

        keras.utils.set_random_seed(config.training.seed)
        objective = make_objective(config, batch.vocabulary)
        samples = batch.num_samples(config.features.sample_rate_hz)
        sizes = Sizes(batch.size, samples, batch.labels)
        self._inputs = noise_batch(objective, sizes, batch.vocabulary)
        step = make_step(objective, config.training, self._inputs)
        self._model = objective.model
        self._run = functools.partial(step.accumulate, [self._inputs], RATE)

    def train(self) -> tuple[float, float]:
        """Runs one step; returns its seconds and its loss."""
        started = time.perf_counter()
        loss = float(self._run().loss)
        return time.perf_counter() - started, loss

    def peak_bytes(self) -> int:
        """Returns the peak resident memory of the process."""
        return peak_resident_bytes()

    def part_seconds(self, rounds: int) -> dict[str, float]:
        """Returns the median times of the features, and of features and encoder with gradient."""
        import tensorflow as tf

        model, inputs = self._model, self._inputs
        variables = [v.value for v in model.encoder.trainable_variables]

        @tf.function(autograph=False)
        def features():
            return model.features(inputs["waveforms"], inputs["lengths"])[0]

        @tf.function(autograph=False)
        def encoder():
            arguments = (inputs[name] for name in ("waveforms", "lengths", "uniforms"))
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(model.listen(*arguments, training=True)[0])
            return [tf.reduce_sum(g) for g in tape.gradient(total, variables) if g is not None]

        parts = {
            "features": lambda: features().numpy(),
            "encoder_with_features": lambda: [x.numpy() for x in encoder()],
        }
        for call in parts.values():
            call()
        return {name: median_seconds(call, rounds) for name, call in parts.items()}
