"""Times a training step of the speech Conformer and measures its memory."""

import dataclasses
import sys
import time
from pathlib import Path

# Before any runtime.
from tools.benchmark.turns import use_cores  # isort: skip

import numpy as np
from tqdm import tqdm

import conformer
from conformer.config import ConformerConfig
from tools.benchmark.own_process import gemm_gflops, in_own_process, median_seconds, peak_bytes
from tools.benchmark.transducer_loss import FORMS
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text

# Products of a step of Conformer-S, (M, K, N), weighted by their share of its operations: those of
# the encoder and those of the joint network.
_PRODUCTS = {(1000, 144, 576): 0.43, (51000, 320, 1000): 0.57}
_RATE = 1e-5


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Sizes of a batch: utterances, seconds of each, labels of each, symbols of the vocabulary."""

    size: int
    seconds: float
    labels: int
    vocabulary: int


def measure(config: ConformerConfig, batch: Batch, rounds: int) -> dict:
    """Measures the training step of a new model on one batch of noise.

    Args:
        config: configuration of model, loss and training.
        batch: sizes of the batch.
        rounds: number of steps that are timed.

    Returns:
        Times of a step and of its parts in seconds, utterances per second, peak memory in bytes.
    """
    import tensorflow as tf

    from conformer.model import build_model
    from conformer.task import losses_of_utterances
    from tools.training.distributed import SingleProcess
    from tools.training.optimizer import Optimizer
    from tools.training.precision import LossScale
    from tools.training.step import TrainStep, moving_statistics
    from tools.training.task import LossSums

    training = config.training
    tf.keras.utils.set_random_seed(training.seed)
    model = build_model(config, batch.vocabulary, training.precision)
    rng = np.random.default_rng(0)
    samples = round(batch.seconds * config.features.sample_rate_hz)
    inputs = {
        "waveforms": rng.normal(0, 0.1, (batch.size, samples)).astype("f4"),
        "lengths": np.full(batch.size, samples, np.int32),
        "uniforms": rng.uniform(size=(batch.size, model.augment.num_uniforms)).astype("f4"),
        "labels": rng.integers(1, batch.vocabulary, (batch.size, batch.labels), dtype=np.int32),
        "label_lengths": np.full(batch.size, batch.labels, np.int32),
    }
    inputs = {name: tf.constant(value) for name, value in inputs.items()}

    class Task:
        def loss(self, batch, training):
            losses = losses_of_utterances(model, config, batch, training)
            total = tf.reduce_sum(losses)
            return LossSums(total, tf.cast(tf.size(losses), tf.float32), losses, {})

    optimizer = Optimizer(training.optimizer, model.trainable_variables, moving_statistics(model))
    scale = LossScale(training.loss_scale, training.precision)
    step = TrainStep(Task(), training, SingleProcess(), optimizer, loss_scale=scale)
    free = {name: tf.TensorSpec([None] * x.shape.rank, x.dtype) for name, x in inputs.items()}
    free["uniforms"] = tf.TensorSpec([None, model.augment.num_uniforms])
    step.compile(free)

    @tf.function(autograph=False, input_signature=[free["waveforms"], free["lengths"]])
    def features(waveforms, lengths):
        return model.features(waveforms, lengths)[0]

    @tf.function(autograph=False, input_signature=[free])
    def encoder(batch):
        with tf.GradientTape() as tape:
            encoded, _ = model.listen(
                batch["waveforms"], batch["lengths"], batch["uniforms"], training=True
            )
            total = tf.reduce_sum(encoded)
        variables = [v.value for v in model.encoder.trainable_variables]
        return [tf.reduce_sum(g) for g in tape.gradient(total, variables) if g is not None]

    started = time.perf_counter()
    float(step(inputs, _RATE).loss)
    first_step_s = time.perf_counter() - started
    float(step(inputs, _RATE).loss)
    step_s = median_seconds(lambda: float(step(inputs, _RATE).loss), rounds)
    peak = peak_bytes()
    parts = {
        "features": lambda: features(inputs["waveforms"], inputs["lengths"]).numpy(),
        "encoder_with_features": lambda: [x.numpy() for x in encoder(inputs)],
    }
    shares = {}
    for name, call in parts.items():
        call()
        shares[name] = median_seconds(call, rounds) / step_s
    shares["loss_and_update"] = 1.0 - shares["encoder_with_features"]
    return {
        "loss": config.loss.kind,
        "precision": training.precision,
        "step_s": step_s,
        "first_step_s": first_step_s,
        "samples_per_second": batch.size / step_s,
        "peak_bytes": peak,
        "shares": shares,
    }


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "tools.benchmark.conformer_training",
        "Times a training step of the speech Conformer (features, forward, backward, update) on "
        "noise, in a process of its own.",
        example="--config=configs/conformer/conformer_s.yml --batch=4 --seconds=10 --loss=fused",
    )
    flags.group("Model")
    flags.string("config", None, "YAML config.", default_text="Conformer-S")
    flags.enum("loss", "plain", FORMS, "How the loss is computed: loss.kind of the config.")
    about = "Measures every kind of loss in float32 and mixed_bfloat16."
    flags.boolean("all", False, about)
    flags.group("Input")
    flags.integer("batch", 4, "Utterances of a batch.")
    flags.number("seconds", 10.0, "Length of each utterance.")
    flags.integer("labels", 50, "Labels of each utterance.")
    flags.integer("vocabulary", 1000, "Symbols of the vocabulary, the blank included.")
    flags.group("Runtime")
    flags.integer("threads", None, "Threads.", default_text="all cores")
    flags.group("Measurement")
    flags.integer("loop", 5, "Number of timed steps.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    if rest or min(values.loop, values.batch, values.labels) < 1 or not values.seconds > 0:
        raise UserError.expected(
            "flags alone, with --loop, --batch and --labels >= 1 and --seconds > 0",
            " ".join(argv),
            "See --help",
        )
    if values.vocabulary < 2:
        raise UserError.expected("--vocabulary >= 2", values.vocabulary, "Correct --vocabulary")
    config = conformer.load_config(values.config)
    kinds = [(values.loss, config.training.precision)]
    if values.all:
        kinds = [(form, name) for name in ("float32", "mixed_bfloat16") for form in FORMS]
    if values.threads is not None:
        use_cores(values.threads)
    if values.json:
        check_writable(Path(values.json))
    batch = Batch(values.batch, values.seconds, values.labels, values.vocabulary)
    report = {"gemm_gflops": in_own_process(gemm_gflops, _PRODUCTS), "kinds": []}
    for form, precision in tqdm(kinds, desc="kinds of loss", file=sys.stderr):
        changed = dataclasses.replace(
            config,
            loss=dataclasses.replace(config.loss, kind=form),
            training=dataclasses.replace(config.training, precision=precision),
        )
        found = in_own_process(measure, changed, batch, values.loop)
        report["kinds"].append(found)
        times = f"{found['step_s']:.3f} s a step, first step {found['first_step_s']:.1f} s"
        memory = f"{found['peak_bytes'] / 2**30:.2f} GiB"
        tqdm.write(f"{form}, {precision}: {times}, {memory}", file=sys.stdout)
    if len(kinds) == 1:
        report |= report.pop("kinds")[0]
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
