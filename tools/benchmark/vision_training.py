"""Times a training step of the vision Conformer in turn with PyTorch's.

The peer is pengzhiliang/Conformer in a separate process; without it our side runs alone. Both sides
start from the same weights and train on one batch in every step, so that their first losses agree.
"""

import contextlib
import dataclasses
import importlib.metadata
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

# Before any runtime.
from tools.amounts import counted

from tools.benchmark.turns import time_in_turn, use_cores  # isort: skip

import numpy as np
import tensorflow as tf

from tools.benchmark import vision_pipeline
from tools.benchmark.sides import EAGER, PEER, PeerSide
from tools.benchmark.vision_models import made_images, official_arguments
from tools.benchmark.vision_sides import open_peer
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import to_json, write_text
from tools.training.distributed import SingleProcess
from tools.training.optimizer import Optimizer
from tools.training.precision import LossScale
from tools.training.step import TrainStep, moving_statistics
from vision.config import VisionConfig
from vision.flags import add_config_flags, training_config_options
from vision.input_pipeline import read_image_folder
from vision.task import VisionTask
from vision.weights import save_pytorch_weights

NUM_COMPARED = 3  # losses; the first is that of the initial weights
TOLERANCE = 1e-3  # relative, of the first loss
RATE = 1e-5  # learning rate, as at the start of a warm-up
_REST_SECONDS = 0.05  # the threads of the previous side stop spinning in this time
PIPELINE_SECONDS = 5.0  # of a round


class Side(Protocol):
    """A model that trains on one batch."""

    def train(self) -> tuple[float, float]:
        """Runs one step; returns its seconds and the loss before the update."""


def make_task(config: VisionConfig, folder: Path) -> VisionTask:
    """Returns the training task, with a data set of empty files in the right number of classes."""
    for number in range(config.model.num_classes):
        place = folder / f"class{number:05}"
        place.mkdir(parents=True)
        (place / "0.jpg").touch()
    data = dataclasses.replace(config.data, data_url=str(folder), train_dir="")
    config = dataclasses.replace(config, data=data)
    return VisionTask(config, SingleProcess(), needs_evaluation=False)


class OurSide:
    """The training step of this project.

    Args:
        task: task whose model is trained.
        images: `[B, H, W, 3]`.
        targets: `[B, V]`.
    """

    def __init__(self, task: VisionTask, images: np.ndarray, targets: np.ndarray):
        training, model = task.config.training, task.model
        optimizer = Optimizer(
            training.optimizer, model.trainable_variables, moving_statistics(model)
        )
        scale = LossScale(training.loss_scale, training.precision)
        self._step = TrainStep(task, training, SingleProcess(), optimizer, loss_scale=scale)
        self._batch = {
            "images": tf.constant(images),
            "targets": tf.constant(targets),
            "labels": tf.constant(targets.argmax(1), tf.int32),
            "weights": tf.ones(len(images)),
        }
        # A variable batch size, as in a training.
        self._step.compile(
            {name: tf.TensorSpec([None, *x.shape[1:]], x.dtype) for name, x in self._batch.items()}
        )

    def train(self):
        """See `Side`."""
        started = time.perf_counter()
        loss = float(self._step(self._batch, RATE).loss)
        return time.perf_counter() - started, loss


class PeerTraining:
    """The PyTorch model in training, from the same weights. The peer measures the time.

    Args:
        peer: the process.
        task: task whose weights and settings the model gets.
        images: `[B, H, W, 3]`.
        targets: `[B, V]`.
        folder: folder of the files in which arrays are passed.
    """

    def __init__(
        self,
        peer: PeerSide,
        task: VisionTask,
        images: np.ndarray,
        targets: np.ndarray,
        *,
        folder: Path,
    ):
        weights, answers = folder / "weights.safetensors", folder / "targets.npy"
        save_pytorch_weights(task.model, weights)
        np.save(answers, targets)
        peer.ask("build", official_arguments(task.model), str(weights))
        peer.take(images)
        settings = {"learning_rate": RATE, **dataclasses.asdict(task.config.training.optimizer)}
        peer.ask("prepare_training", str(answers), settings)
        self._peer = peer

    def train(self):
        """See `Side`."""
        seconds, loss = self._peer.ask("train")
        return seconds, loss


def first_losses(sides: Mapping[str, Side]) -> dict[str, list[float]]:
    """Runs the first steps of every side and returns their losses.

    Raises:
        UserError: the first losses differ, so that the models are not the same.
    """
    losses = {name: [side.train()[1] for _ in range(NUM_COMPARED)] for name, side in sides.items()}
    firsts = [found[0] for found in losses.values()]
    if not np.allclose(firsts, firsts[0], rtol=TOLERANCE):
        raise UserError.expected(
            f"first losses that agree to {TOLERANCE}",
            ", ".join(f"{name} {x[0]:.6f}" for name, x in losses.items()),
            "Compare the logits with tools.benchmark.vision",
        )
    return losses


def soft_targets(count: int, num_classes: int) -> np.ndarray:
    """Returns targets `[B, V]` with two classes each, as after mixup."""
    rng = np.random.default_rng(0)
    targets = np.zeros((count, num_classes), np.float32)
    shares = rng.uniform(0.5, 1.0, count).astype(np.float32)
    for part in (shares, 1 - shares):
        targets[np.arange(count), rng.integers(0, num_classes, count)] += part
    return targets


def time_pipeline(config: VisionConfig, data_dir: str | None, rounds: int) -> float:
    """Returns the images per second of the input pipeline alone, with all augmentations."""
    with tempfile.TemporaryDirectory() as scratch:
        if data_dir:
            folder = read_image_folder(data_dir)
        else:
            folder = vision_pipeline.make_images(Path(scratch))
        recipes = {"recipe": config.augmentation}
        found = vision_pipeline.time_in_turn(
            folder, config, recipes, rounds, seconds=PIPELINE_SECONDS
        )
    return found["recipe"]["images_per_second"]


def _parse(argv: Sequence[str]):
    flags = CommandLine(
        "tools.benchmark.vision_training",
        "Times a training step (forward, backward, update) of the vision Conformer, without drop "
        "path, in turn with the PyTorch model and its AdamW.",
        example="--config=configs/vision/conformer_tiny.yml --loop=5",
    )
    add_config_flags(flags, "model", "preprocessing", "augmentation")
    flags.group("Model")
    about = "Checkout of pengzhiliang/Conformer, for the PyTorch model."
    flags.string("peer_repo", None, about, default_text="no PyTorch model")
    flags.group("Input")
    flags.integer("batch_size", 16, "Images of a batch.")
    flags.string("data_dir", None, "ImageFolder for --pipeline.", default_text="made-up images")
    flags.group("Runtime")
    flags.integer("threads", 2, "Threads of each side.")
    flags.group("Measurement")
    flags.integer("loop", 10, "Rounds, in which the sides run in turn.")
    flags.boolean("pipeline", False, "Also times the input pipeline with all augmentations.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    if rest or min(values.loop, values.batch_size) < 1:
        raise UserError.expected(
            "flags alone, with --loop and --batch_size >= 1", " ".join(argv), "See --help"
        )
    # With drop path the random numbers of the sides would differ.
    config = training_config_options(values).with_words(drop_path="0.0").load()
    if config.training.precision != "float32" or config.training.optimizer.name != "adamw":
        raise UserError.expected(
            "float32 and adamw, which the peer has",
            f"{config.training.precision} and {config.training.optimizer.name}",
            "Choose another --config",
        )
    return values, config


def _measure(values, config: VisionConfig) -> dict:
    """Runs both sides in turn and returns their part of the report."""
    images = made_images(values.batch_size, config.preprocessing.image_size)
    targets = soft_targets(values.batch_size, config.model.num_classes)
    names = ("numpy", "tensorflow", "keras")
    versions = {name: importlib.metadata.version(name) for name in names}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        task = make_task(config, folder / "classes")
        peer = stack.enter_context(open_peer(values.peer_repo, values.threads, folder))
        sides: dict[str, Side] = {}
        if peer:
            versions |= peer.ask("versions")
            sides[PEER] = PeerTraining(peer, task, images, targets, folder=folder)
        sides[EAGER] = OurSide(task, images, targets)
        losses = first_losses(sides)
        calls = {name: lambda side=side: side.train()[0] for name, side in sides.items()}
        times = time_in_turn(calls, values.batch_size, values.loop, 0.0, rest_seconds=_REST_SECONDS)
    if PEER in times:
        times[EAGER]["speedup"] = times[PEER]["median_ms"] / times[EAGER]["median_ms"]
    return {"versions": versions, "first_losses": losses, "sides": times}


def main(argv: list[str]) -> int:
    """Runs the program."""
    values, config = _parse(argv)
    use_cores(values.threads)
    report = {
        "architecture": config.model.arch,
        "image_size": config.preprocessing.image_size,
        "batch_size": values.batch_size,
        "threads": values.threads,
        "machine": platform.machine(),
        "loop": values.loop,
        **_measure(values, config),
    }
    shown = ", ".join(f"{name} {x}" for name, x in report["versions"].items())
    print(
        f"{config.model.arch}, training step of batch {values.batch_size}, "
        f"{config.preprocessing.image_size} px, {counted(values.threads, 'thread')}, medians of "
        f"{counted(values.loop, 'round')} in turn; {shown}"
    )
    for name, row in report["sides"].items():
        losses = " ".join(f"{x:.5f}" for x in report["first_losses"][name])
        ratio = f", {row['speedup']:.2f} x {PEER}" if "speedup" in row else ""
        print(
            f"{name:17} median {row['median_ms']:7.1f} ms, p95 {row['p95_ms']:7.1f} ms, "
            f"{row['fps']:5.2f} images/s{ratio}; first losses {losses}"
        )
    if values.pipeline:
        speed = time_pipeline(config, values.data_dir, rounds=3)
        ratio = speed / report["sides"][EAGER]["fps"]
        report["pipeline"] = {"images_per_second": speed, "against_step": ratio}
        print(f"input pipeline    {speed:.1f} images/s, {ratio:.1f} x our step's")
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
