"""Training batches: reads, augments and mixes images, and computes their targets."""

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

# Uses of random numbers. Each has its own numbers, derived from the seed of the image.
_CROP, _FLIP, _AUGMENT, _ERASE, _NOISE = range(5)


class ImageAugmentation:
    """All augmentation of a single image, as a function of its seed.

    Args:
        config: augmentation of the recipe.
        preprocessing: size, mean and standard deviation of the model inputs.
    """

    def __init__(self, config: AugmentationConfig, preprocessing: PreprocessingConfig):
        self._config, self._preprocessing = config, preprocessing
        policy = parse_rand_augment(config.auto_augment)
        fill = tuple(min(255, max(0, round(255 * x))) for x in preprocessing.mean)
        self.rand_augment = policy and RandAugmentation(policy, config.aa_interpolation, fill)
        side = preprocessing.image_size
        mean, std = np.float64(preprocessing.mean), np.float64(preprocessing.std)
        # Repeat the constants for a row of the image, because broadcasting over three channels is
        # slow.
        self._scale = np.tile(1 / (255 * std), side).astype("float32")
        self._offset = np.tile(-mean / std, side).astype("float32")

    def crop(self, path: tf.Tensor, seed: tf.Tensor) -> tf.data.Dataset:
        """Reads a random crop of an image file; see `random_crops`."""
        return random_crops(
            path,
            self._preprocessing.image_size,
            self._preprocessing.interpolation,
            self._config.min_crop,
            seed=_stream(seed, _CROP),
            exif_orientation=self._preprocessing.exif_orientation,
        )

    def change(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Flips an image and applies RandAugment or color jitter; `[S, S, 3]` uint8."""
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
        """Returns the operations of RandAugment for the seed of an image."""
        return self.rand_augment.draw(_stream(seed, _AUGMENT))

    def finish(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Normalizes an image and erases random boxes; `[S, S, 3]` uint8 to float32."""
        side = self._preprocessing.image_size
        rows = tf.cast(tf.reshape(image, [side, 3 * side]), tf.float32)
        image = tf.reshape(rows * self._scale + self._offset, [side, side, 3])
        return erase(image, self._config, _stream(seed, _ERASE), _stream(seed, _NOISE))


def image_seed(epoch_seed: tf.Tensor, index: tf.Tensor, repetition: tf.Tensor) -> tf.Tensor:
    """Returns the seed `[2]` int64 of a variant of an image; `_stream` derives seeds from it."""
    return tf.stack([epoch_seed, index + repetition * 2**32])


def _stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    """Returns the seed for one use of random numbers. It must differ in bits 48 and above."""
    return seed + tf.constant([number * 2**33, 0], tf.int64)


# AutoGraph would take seconds. It is not required: no function branches on a tensor in Python.
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
    """Returns the training batches of one process, from a position to the end of the last epoch.

    Random numbers for an image are functions of (seed, epoch, image, variant), those for mixing
    are functions of (seed, epoch, step). They are therefore the same on any number of processes
    and in a resumed run.

    Args:
        folder: the complete training set, the same on all processes.
        num_classes: number of classes V of the model.
        preprocessing: size, mean and standard deviation of the model inputs.
        augmentation: augmentation of the recipe.
        seed: seed of the run.
        shard: rank, number of processes and batch size.
        position: epoch and step to start at.
        num_epochs: number of epochs of the run.
        num_workers: number of images read in parallel; 0: one for each core.

    Returns:
        Batches of `images` `[B, S, S, 3]` float32, normalized; `targets` `[B, V]` float32,
        smoothed and mixed; `labels` `[B]` int32; `weights` `[B]` float32, 0 for unreadable images;
        `indices` `[B]` int32 in the data set; `reason` `[B]` string, the reason why an image is
        unreadable.

    Raises:
        UserError: a label is not below `num_classes`, or mixing requires an even batch size.
    """
    if max(folder.labels) >= num_classes:
        raise UserError.expected(
            f"at least {max(folder.labels) + 1} classes", num_classes, "Raise num_classes"
        )
    if augmentation.mixes and shard.batch_size % 2:
        raise UserError.expected(
            "an even batch_size, since images are mixed in pairs",
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
                # + 1, because seeds (s, e) and (s, e, 0) give the same numbers, and the order of
                # the epoch uses (s, e).
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
