"""Training images to batches: reading, augmentation, mixing and soft targets."""

import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tools.errors import UserError
from tools.training.data import Epochs, row_names
from tools.training.task import Position, Shard, TrainData
from vision.augment import RandAugmentation, jitter_colors
from vision.augmentation_config import AugmentationConfig, parse_rand_augment
from vision.config import PreprocessingConfig
from vision.data_plan import EpochPlan, rank_places
from vision.erasing import erase
from vision.input_pipeline import ImageFolder
from vision.mixing import Mixing, draw_mixing, mix, smooth_targets
from vision.random_crop import random_crops

# What gets random numbers of its own from the seed of an image.
_CROP, _FLIP, _AUGMENT, _ERASE, _NOISE = range(5)


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
            seed=_stream(seed, _CROP),
            exif_orientation=self._preprocessing.exif_orientation,
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


# No function of the pipeline branches in Python on a tensor, and AutoGraph would take seconds.
@tf.autograph.experimental.do_not_convert
def training_data(
    folder: ImageFolder,
    num_classes: int,
    preprocessing: PreprocessingConfig,
    augmentation: AugmentationConfig,
    *,
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

    def make_plan(epoch: int, done) -> EpochPlan:
        return EpochPlan(
            len(folder.paths),
            augmentation.repeated_augmentation,
            seed,
            epoch,
            global_batch_size=shard.global_batch_size,
            done=done,
        )

    epochs = Epochs(make_plan, position, num_epochs, seed)

    def steps() -> Iterator[dict[str, np.ndarray]]:
        for epoch, plan in epochs:
            epoch_seed = epochs.random_seed(epoch)
            for step in range(len(plan)):
                rows = plan.rows(step)
                yield {
                    "index": rows.indices[places],
                    "repetition": rows.repetitions[places],
                    "epoch_seed": np.full(len(places), epoch_seed),
                }

    def mixings() -> Iterator[Mixing]:
        for epoch, plan in epochs:
            for step in range(len(plan)):
                # A zero at the end would give the numbers of the epoch's order.
                generator = np.random.default_rng((seed, epoch, 1 + plan.first_row(step)))
                drawn = draw_mixing(
                    augmentation, side, shard.global_batch_size, epoch, generator=generator
                )
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
    return epochs.train_data(dataset, row_names("indices", folder.paths, folder.paths))
