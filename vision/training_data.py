"""Training images to batches: the data plan, reading, augmentation, mixing and soft targets."""

import functools
import logging
import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tools.errors import UserError
from tools.training.task import Position, Shard, TrainData
from vision.augment import RandAugmentation, jitter_colors
from vision.augmentation_config import AugmentationConfig, parse_rand_augment
from vision.config import PreprocessingConfig
from vision.erasing import erase
from vision.input_pipeline import ImageFolder
from vision.mixing import Mixing, draw_mixing, mix, smooth_targets
from vision.random_crop import random_crops

logger = logging.getLogger(__name__)

# What gets random numbers of its own from the seed of an image.
_CROP, _FLIP, _AUGMENT, _ERASE, _NOISE = range(5)


class Rows(NamedTuple):
    """Images of an epoch, in order.

    Attributes:
        indices: `[N]` int64 into the folder.
        repetitions: `[N]` int64, which variant of the image in this epoch.
    """

    indices: np.ndarray
    repetitions: np.ndarray


class EpochPlan:
    """The batches of one epoch that are still to run, the same on every process.

    The images come in an order of (seed, epoch). With repeated augmentation each of them comes
    several times in a row, so that its variants meet in one step, and the epoch ends when it is as
    long as without. The last batch is filled up with further variants of the first images: no row
    is empty, which batch normalization would see.

    Args:
        num_images: of the folder.
        repeats: variants of an image in an epoch.
        seed: of the run.
        epoch: from 0.
        global_batch_size: rows of all processes.
        done: `(global_batch_size, num_steps)` of what was already run, in order; a run that stopped
            inside the epoch goes on behind that, at whatever batch size.

    Source: Hoffer et al., Augment your batch (2019); DeiT @ee8893c, `RASampler`.
    """

    def __init__(
        self,
        num_images: int,
        repeats: int,
        seed: int,
        epoch: int,
        global_batch_size: int,
        done: tuple[tuple[int, int], ...] = (),
    ):
        order = np.random.default_rng((seed, epoch)).permutation(num_images)
        self._order = np.repeat(order[: -(-num_images // repeats)], repeats)[:num_images]
        self._repeats, self._size = repeats, global_batch_size
        self._start = sum(size * steps for size, steps in done)
        last = next((size for size, steps in reversed(done) if steps), 0)
        if last and self._start - last >= num_images:
            raise UserError.expected(
                f"at most {num_images} images to resume in epoch {epoch}",
                f"{self._start} already seen",
                "Resume with the data that the run was started with",
            )

    def __len__(self) -> int:
        """Number of steps."""
        return -(-max(0, len(self._order) - self._start) // self._size)

    def first_row(self, step: int) -> int:
        """Place of a step's first row in the epoch, which names the step at any batch size."""
        return self._start + step * self._size

    def rows(self, step: int) -> Rows:
        """The rows of a global batch."""
        places = self.first_row(step) + np.arange(self._size)
        rounds, places = np.divmod(places, len(self._order))
        # An image's places follow each other from a multiple of their number on.
        return Rows(self._order[places], places % self._repeats + self._repeats * rounds)


def rank_places(shard: Shard) -> np.ndarray:
    """Returns which rows of a global batch a process has.

    A row and the one as far from the other end are mixed with each other. They come to one process,
    as far from the ends of its own batch, so that any number of processes mixes the same pairs.

    Args:
        shard: of the process.

    Returns:
        `[batch_size]` int64.
    """
    rank, size, rows = shard
    front = rank + size * np.arange(rows // 2)
    middle = [rank + size * (rows // 2)] if rows % 2 else []
    return np.concatenate([front, middle, shard.global_batch_size - 1 - front[::-1]]).astype(
        np.int64
    )


class ImageAugmentation:
    """Everything that happens to one image, as a function of its seed.

    Args:
        config: the recipe.
        preprocessing: size and statistics of the model's input.
    """

    def __init__(self, config: AugmentationConfig, preprocessing: PreprocessingConfig):
        self._config, self._preprocessing = config, preprocessing
        policy = parse_rand_augment(config.auto_augment)
        fill = tuple(min(255, max(0, round(255 * x))) for x in preprocessing.mean)
        self.rand_augment = policy and RandAugmentation(policy, config.aa_interpolation, fill)
        side = preprocessing.image_size
        mean, std = np.float64(preprocessing.mean), np.float64(preprocessing.std)
        # A row of an image at once: broadcasting over three channels is slow.
        self._scale = np.tile(1 / (255 * std), side).astype("float32")
        self._offset = np.tile(-mean / std, side).astype("float32")

    def crop(self, path: tf.Tensor, seed: tf.Tensor) -> tf.data.Dataset:
        """Reads a random part of a file; see `random_crops`."""
        return random_crops(
            path,
            self._preprocessing.image_size,
            self._preprocessing.interpolation,
            self._config.min_crop,
            _stream(seed, _CROP),
        )

    def change(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Flips it and changes shape and colors; uint8 `[S, S, 3]`."""
        if self._config.hflip > 0:
            uniform = tf.random.stateless_uniform([], _stream(seed, _FLIP))
            flips = uniform < self._config.hflip
            image = tf.cond(
                flips, lambda x=image: tf.reverse(x, [1]), lambda x=image: tf.identity(x)
            )
        if self.rand_augment is not None:
            return self.rand_augment.apply(image, self.draws(seed))
        if self._config.color_jitter > 0:
            return jitter_colors(image, self._config.color_jitter, _stream(seed, _AUGMENT))
        return image

    def draws(self, seed: tf.Tensor):
        """What RandAugment does to the image of this seed."""
        return self.rand_augment.draw(_stream(seed, _AUGMENT))

    def finish(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Normalizes an image and erases parts of it; float32 `[S, S, 3]`."""
        side = self._preprocessing.image_size
        rows = tf.cast(tf.reshape(image, [side, 3 * side]), tf.float32)
        image = tf.reshape(rows * self._scale + self._offset, [side, side, 3])
        return erase(image, self._config, _stream(seed, _ERASE), _stream(seed, _NOISE))


def image_seed(epoch_seed: tf.Tensor, index: tf.Tensor, repetition: tf.Tensor) -> tf.Tensor:
    """Seed `[2]` int64 of one variant of one image; `_stream` adds what it is used for."""
    return tf.stack([epoch_seed, index + repetition * 2**32])


def _stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    """Seed of one use of an image's random numbers; erasing counts on bits 48 and above."""
    return seed + tf.constant([number * 2**33, 0], tf.int64)


def training_data(
    folder: ImageFolder,
    num_classes: int,
    preprocessing: PreprocessingConfig,
    augmentation: AugmentationConfig,
    seed: int,
    shard: Shard,
    position: Position,
    num_epochs: int,
    num_workers: int = 0,
) -> TrainData:
    """Makes one process's batches from a position to the end of the last epoch.

    Every random number belongs to (seed, epoch, image, variant), or to (seed, epoch, step) where
    images are mixed, so it is the same on any number of processes and after any interruption.

    Args:
        folder: the whole training set, the same on every process.
        num_classes: of the model.
        preprocessing: size and statistics of the model's input.
        augmentation: the recipe.
        seed: of the run.
        shard: this process's part.
        position: where to begin.
        num_epochs: where to end.
        num_workers: images prepared at once; 0: as many as cores.

    Returns:
        Batches of `images [B, S, S, 3]` float32, normalized; `targets [B, V]` float32, smoothed
        and mixed; `labels [B]` int32; `weights [B]` float32 (0: an image that could not be read);
        `indices [B]` int32 into the folder; `reason [B]` string (why it could not).

    Raises:
        UserError: a label that the model has no class for, or a batch that cannot be mixed.
    """
    if max(folder.labels) >= num_classes:
        raise UserError.expected(
            f"at least {max(folder.labels) + 1} classes", num_classes, "Raise num_classes"
        )
    if augmentation.mixes and shard.batch_size % 2:
        raise UserError.expected(
            "an even batch_size, whose images are mixed in pairs",
            shard.batch_size,
            "Change it, or set mixup_prob to 0",
        )
    side, places = preprocessing.image_size, rank_places(shard)
    augment = ImageAugmentation(augmentation, preprocessing)
    paths = tf.constant([os.fsencode(path) for path in folder.paths], tf.string)
    all_labels = tf.constant(folder.labels, tf.int32)

    # Pre-fetching reaches into the next epoch while the loop is still in this one: two plans.
    @functools.lru_cache(maxsize=2)
    def plan(epoch: int) -> EpochPlan:
        return EpochPlan(
            len(folder.paths),
            augmentation.repeated_augmentation,
            seed,
            epoch,
            shard.global_batch_size,
            position.done if epoch == position.epoch else (),
        )

    def steps() -> Iterator[dict[str, np.ndarray]]:
        for epoch in range(position.epoch, num_epochs):
            epoch_seed = zlib.crc32(f"{seed}/{epoch}".encode())
            for step in range(len(plan(epoch))):
                rows = plan(epoch).rows(step)
                yield {
                    "index": rows.indices[places],
                    "repetition": rows.repetitions[places],
                    "epoch_seed": np.full(len(places), epoch_seed),
                }

    def mixings() -> Iterator[Mixing]:
        for epoch in range(position.epoch, num_epochs):
            for step in range(len(plan(epoch))):
                # A zero at the end would give the numbers of the epoch's order.
                generator = np.random.default_rng((seed, epoch, 1 + plan(epoch).first_row(step)))
                drawn = draw_mixing(augmentation, side, shard.global_batch_size, epoch, generator)
                yield drawn if len(drawn.own) == 1 else Mixing(*(x[places] for x in drawn))

    def read(row):
        seed = image_seed(row["epoch_seed"], row["index"], row["repetition"])
        one = augment.crop(paths[row["index"]], seed)
        return one.map(lambda found: {**found, "index": row["index"], "seed": seed})

    def augmented(row):
        image = augment.finish(augment.change(row["image"], row["seed"]), row["seed"])
        usable = tf.cast(tf.equal(row["reason"], ""), tf.float32)
        return {
            "images": usable * image,
            "labels": all_labels[row["index"]],
            "weights": usable,
            "indices": tf.cast(row["index"], tf.int32),
            "reason": row["reason"],
        }

    def mixed(batch, mixing):
        targets = smooth_targets(batch["labels"], num_classes, augmentation.label_smoothing)
        images = batch["images"]
        if augmentation.mixes:
            images, targets = mix(images, targets, batch["weights"] > 0, mixing)
        return {**batch, "images": images, "targets": targets}

    workers = num_workers or os.cpu_count() or 1
    row = dict.fromkeys(
        ("index", "repetition", "epoch_seed"), tf.TensorSpec([shard.batch_size], tf.int64)
    )
    rows = tf.data.Dataset.from_generator(steps, output_signature=row).unbatch()
    num_mixings = 1 if augmentation.mixup_mode == "batch" else shard.batch_size
    mixing = tf.data.Dataset.from_generator(
        mixings,
        output_signature=Mixing(
            tf.TensorSpec([num_mixings], tf.float32), tf.TensorSpec([num_mixings, 4], tf.int32)
        ),
    )
    images = (
        rows.interleave(
            read,
            cycle_length=workers,
            block_length=1,
            num_parallel_calls=workers,
            deterministic=True,
        )
        .map(augmented, num_parallel_calls=workers)
        .batch(shard.batch_size, drop_remainder=True)
    )
    dataset = tf.data.Dataset.zip((images, mixing)).map(mixed, num_parallel_calls=1).prefetch(2)
    warned = set()

    def names(batch) -> list[str]:
        indices = batch["indices"].numpy()
        for index, reason in zip(indices, batch["reason"].numpy(), strict=True):
            if reason and index not in warned:
                warned.add(index)
                logger.warning("dropped %s: %s", folder.paths[index], reason.decode())
        return [folder.paths[index] for index in indices]

    later_epochs = num_epochs - position.epoch - 1
    remaining = len(plan(position.epoch)) if later_epochs >= 0 else 0
    if later_epochs > 0:
        remaining += later_epochs * len(plan(position.epoch + 1))
    return TrainData(dataset, lambda epoch: len(plan(epoch)), remaining, names)
