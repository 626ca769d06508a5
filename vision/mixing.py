"""Mixup and cutmix: images and their targets blended with those of a partner."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vision.augmentation_config import AugmentationConfig


class Mixing(NamedTuple):
    """How the rows of a batch are blended, N of them, or one for all.

    Outside of its box, an image keeps `own` of its values; inside, nothing.

    Attributes:
        own: `[N]` float32; 1 in cutmix, and where nothing is mixed.
        boxes: `[N, 4]` int32: top, left, bottom, right; empty in mixup.
    """

    own: np.ndarray | tf.Tensor
    boxes: np.ndarray | tf.Tensor


def draw_mixing(
    config: AugmentationConfig,
    side: int,
    num_rows: int,
    epoch: int,
    *,
    generator: np.random.Generator,
) -> Mixing:
    """Draws how a global batch is mixed.

    Args:
        config: the shares, and what has random numbers of its own: the batch, every pair of a row
            and its partner (the row as far from the other end), or every row.
        side: of the images.
        num_rows: of the global batch.
        epoch: from 0; from `mixup_off_epoch` on nothing is mixed.
        generator: of this step.

    Returns:
        One row for the batch, or `num_rows`.

    Source: Zhang et al., mixup (2017); Yun et al., CutMix (2019); timm 1.0, `Mixup`.
    """
    half = (num_rows + 1) // 2
    count = {"batch": 1, "pair": half, "elem": num_rows}[config.mixup_mode]
    off = config.mixup_off_epoch and epoch >= config.mixup_off_epoch
    mixed = generator.random(count) < (0 if off or not config.mixes else config.mixup_prob)
    cut = generator.random(count) < config.switch_prob
    if config.mixup == 0 or config.cutmix == 0:
        cut[:] = config.cutmix > 0
    alpha = np.where(cut, config.cutmix or 1.0, config.mixup or 1.0)
    own = generator.beta(alpha, alpha)
    centers = generator.integers(0, side, [2, count])
    reach = (side * np.sqrt(1.0 - own)).astype(np.int64) // 2
    low, high = np.clip(centers - reach, 0, side), np.clip(centers + reach, 0, side)
    boxes = np.stack([low[0], low[1], high[0], high[1]], 1)
    boxes[~(mixed & cut)] = 0
    own[~mixed | cut] = 1.0
    if config.mixup_mode == "pair":
        order = np.minimum(np.arange(num_rows), num_rows - 1 - np.arange(num_rows))
        own, boxes = own[order], boxes[order]
    return Mixing(own.astype("float32"), boxes.astype("int32"))


def smooth_targets(labels: tf.Tensor, num_classes: int, smoothing: float) -> tf.Tensor:
    """Makes targets `[B, V]` of labels `[B]`: `smoothing` is shared by all classes.

    Source: Szegedy et al., Rethinking the Inception architecture (2015), section 7.
    """
    off = smoothing / num_classes
    return tf.one_hot(labels, num_classes, 1.0 - smoothing + off, off)


def mix(
    images: tf.Tensor, targets: tf.Tensor, usable: tf.Tensor, mixing: Mixing
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends every row with its partner, the row as far from the other end of the batch.

    Args:
        images: float32 `[B, S, S, 3]`.
        targets: float32 `[B, V]`.
        usable: bool `[B]`; a row that is not, or whose partner is not, stays as it is.
        mixing: for each row, or for all.

    Returns:
        Images and targets; the weight of a target is the share of its image in the pixels.
    """
    num_rows, (side, channels) = tf.shape(images)[0], (images.shape[1], images.shape[3])
    rows = tf.range(num_rows)
    partner = tf.where(usable & usable[::-1], num_rows - 1 - rows, rows)
    places = tf.range(side)

    def within(low, high):
        return (places >= low[:, None]) & (places < high[:, None])

    top, left, bottom, right = tf.unstack(mixing.boxes, axis=1)
    inside = within(top, bottom)[:, :, None] & within(left, right)[:, None]
    share = tf.where(inside, 0.0, mixing.own[:, None, None])

    def blend(own, theirs, weight):
        return weight * own + (1.0 - weight) * theirs

    # A row for each image: broadcasting in two dimensions is the fastest.
    weights = tf.reshape(tf.repeat(share, channels, axis=2), [-1, side * side * channels])
    flat = tf.reshape(images, [num_rows, side * side * channels])
    mixed = blend(flat, tf.gather(flat, partner), weights)
    target_share = tf.reduce_mean(share, [1, 2])[:, None]
    return (
        tf.reshape(mixed, tf.shape(images)),
        blend(targets, tf.gather(targets, partner), target_share),
    )
