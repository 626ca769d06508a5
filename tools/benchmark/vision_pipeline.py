"""Times the input pipeline of vision training, and the parts of its augmentations."""

import dataclasses
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image
from tqdm import tqdm

from tools.amounts import counted
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import to_json, write_text
from tools.training.task import Position, Shard
from vision.augmentation_config import AugmentationConfig
from vision.config import VisionConfig
from vision.flags import add_config_flags, training_config_options
from vision.input_pipeline import ImageFolder, read_image_folder
from vision.training_data import training_data

# Size of typical photographs in ImageNet; with this quality they have about 110 kB.
_WIDTH, _HEIGHT, _QUALITY = 500, 375, 92
_NUM_MADE = 64
_SEED, _EPOCHS = 0, 1_000_000  # more epochs than a measurement needs


def make_images(folder: Path) -> ImageFolder:
    """Writes JPEG files of the sizes of ImageNet's: smooth shapes with fine noise."""
    rng = np.random.default_rng(_SEED)
    for number in range(_NUM_MADE):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype("uint8"))
        smooth = np.asarray(coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), "float32")
        values = smooth + rng.normal(0, 9, (_HEIGHT, _WIDTH, 1))
        place = folder / f"class{number % 8}"
        place.mkdir(exist_ok=True)
        image = Image.fromarray(np.clip(values, 0, 255).astype("uint8"))
        image.save(place / f"{number}.jpg", quality=_QUALITY)
    return read_image_folder(folder)


def recipes(whole: AugmentationConfig) -> dict[str, AugmentationConfig]:
    """Returns variants of the augmentations; each has one part more than the variant before."""
    parts = {"crop, flip, normalize": {}}
    parts["+ color and shape"] = {"auto_augment": whole.auto_augment}
    parts["+ color and shape"]["color_jitter"] = whole.color_jitter
    parts["+ erasing"] = parts["+ color and shape"] | {"re_prob": whole.re_prob}
    bare = {"auto_augment": "none", "color_jitter": 0.0, "re_prob": 0.0, "mixup_prob": 0.0}
    found = {name: dataclasses.replace(whole, **(bare | part)) for name, part in parts.items()}
    return {**found, "+ mixing: all of it": whole}


def _wait_for_rest() -> None:
    """Waits until this process is idle, for at most five seconds."""
    for _ in range(50):
        started = time.process_time()
        time.sleep(0.1)
        if time.process_time() - started < 0.01:
            return


def time_in_turn(
    folder: ImageFolder,
    config: VisionConfig,
    recipes: Mapping[str, AugmentationConfig],
    rounds: int,
    *,
    seconds: float,
) -> dict[str, dict[str, float]]:
    """Runs the variants in turn, each for some seconds per round.

    A pipeline that is not timed prepares batches until its buffers are full. Therefore each turn
    first waits until the process is idle, and then empties the buffers of its own pipeline.

    Args:
        folder: images to read.
        config: preprocessing, batch size and number of workers.
        recipes: variants of the augmentations by name.
        rounds: number of rounds.
        seconds: time of each variant in a round.

    Returns:
        Medians over the rounds, by variant: `images_per_second`, and `processor_ms_per_image` of
        all cores.
    """
    batch_size = config.training.batch_size
    num_classes = max(folder.labels) + 1
    batches = {}
    for name, recipe in recipes.items():
        data = training_data(
            folder,
            num_classes,
            config.preprocessing,
            recipe,
            seed=_SEED,
            shard=Shard(0, 1, batch_size),
            position=Position(),
            num_epochs=_EPOCHS,
            num_workers=config.data.num_parallel_workers,
        )
        batches[name] = iter(data.dataset)
        next(batches[name])
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in recipes}
    for _ in tqdm(range(rounds), desc=f"batch {batch_size}", file=sys.stderr):
        for name, taken in batches.items():
            _wait_for_rest()
            for _ in range(4):
                next(taken)
            started, processor, count = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - started < seconds:
                next(taken)
                count += batch_size
            passed, used = time.perf_counter() - started, time.process_time() - processor
            measured[name].append((count / passed, 1e3 * used / count))
    return {
        name: dict(
            zip(
                ("images_per_second", "processor_ms_per_image"),
                np.median(values, 0).tolist(),
                strict=True,
            )
        )
        for name, values in measured.items()
    }


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.vision_pipeline",
        "Times the input pipeline of vision training, and the parts of its augmentations.",
        example="--config=configs/vision/conformer_tiny.yml --data_dir=ImageNet/val",
    )
    add_config_flags(flags, "preprocessing", "augmentation")
    flags.group("Input")
    flags.string("data_dir", None, "ImageFolder to read.", default_text="made-up images")
    flags.integer("batch_size", None, "Images of a batch.", default_text="the recipe's")
    flags.group("Runtime")
    about = "Images that are prepared in parallel."
    flags.integer("num_parallel_workers", None, about, default_text="as many as cores")
    flags.group("Measurement")
    flags.integer("rounds", 3, "Rounds, with all variants of the augmentations in turn.")
    flags.number("seconds", 5.0, "Time of each variant in a round.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    config = training_config_options(values).load()
    if rest or min(values.rounds, config.training.batch_size) < 1 or values.seconds <= 0:
        raise UserError.expected(
            "flags alone, with --rounds and --batch_size >= 1 and --seconds > 0",
            " ".join(argv),
            "See --help",
        )
    with tempfile.TemporaryDirectory() as scratch:
        if values.data_dir:
            folder = read_image_folder(values.data_dir)
        else:
            folder = make_images(Path(scratch))
        size = sum(os.path.getsize(path) for path in folder.paths) / len(folder.paths)
        versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "pillow")}
        cores, side = len(os.sched_getaffinity(0)), config.preprocessing.image_size
        print(
            f"{counted(len(folder.paths), 'image')} of {size / 1e3:.0f} kB "
            f"({values.data_dir or 'made up'}) "
            f"to {side} x {side}, {counted(cores, 'core')}, "
            f"medians of {counted(values.rounds, 'round')} in turn; "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
        )
        results = time_in_turn(
            folder,
            config,
            recipes(config.augmentation),
            values.rounds,
            seconds=values.seconds,
        )
    for name, found in results.items():
        print(
            f"{name:22} {found['images_per_second']:7.1f} images/s, "
            f"{found['processor_ms_per_image']:5.2f} ms of processor per image"
        )
    report = {
        "images": values.data_dir or "made up",
        "recipe": dataclasses.asdict(config.augmentation),
        "image_size": side,
        "batch_size": config.training.batch_size,
        "cores": cores,
        "machine": platform.machine(),
        "versions": versions,
        "results": results,
    }
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
