"""Mixup and CutMix: mix each image and its target with those of another image of the batch."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vision.augmentation_config import AugmentationConfig


class Mixing(NamedTuple):
    """Weights and boxes for mixing a batch: N = 1 for all rows, or one of each for every row.

    Pixels outside the box are `own * image + (1 - own) * partner`. Pixels inside are those of the
    partner.

    Attributes:
        own: `[N]` float32; 1 for CutMix and for rows that are not mixed.
        boxes: `[N, 4]` int32: top, left, bottom, right in pixels; empty boxes for mixup.
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
    """Draws the random numbers for mixing a global batch.

    Args:
        config: `mixup`, `cutmix`, their probabilities, and `mixup_mode`: whether to draw once for
            the batch, for each pair of rows i and `-1 - i`, or for each row.
        side: side of the images in pixels.
        num_rows: number of rows of the global batch.
        epoch: number of the epoch, from 0. From epoch `mixup_off_epoch` on nothing is mixed.
        generator: random number generator of this step.

    Returns:
        Weights and boxes: one for the batch, or `num_rows` of each.

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
    """Returns the target distributions of labels, with label smoothing.

    Args:
        labels: `[B]` integers.
        num_classes: number of classes V.
        smoothing: probability that is distributed equally over all classes.

    Returns:
        `[B, V]` float32.

    Source: Szegedy et al., Rethinking the Inception architecture (2015), section 7.
    """
    off = smoothing / num_classes
    return tf.one_hot(labels, num_classes, 1.0 - smoothing + off, off)


def mix(
    images: tf.Tensor, targets: tf.Tensor, usable: tf.Tensor, mixing: Mixing
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes row i of a batch with row `-1 - i`, its partner.

    Args:
        images: `[B, S, S, 3]` float32.
        targets: `[B, V]` float32.
        usable: `[B]` bool; rows are mixed only if they and their partner are usable.
        mixing: weights and boxes for each row or for all rows.

    Returns:
        Mixed images and targets of the same shapes. The weight of a target is the fraction that
        its image contributes to the pixels.
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

    # Flatten each image to one row, because broadcasting is fastest in two dimensions.
    weights = tf.reshape(tf.repeat(share, channels, axis=2), [-1, side * side * channels])
    flat = tf.reshape(images, [num_rows, side * side * channels])
    mixed = blend(flat, tf.gather(flat, partner), weights)
    target_share = tf.reduce_mean(share, [1, 2])[:, None]
    return (
        tf.reshape(mixed, tf.shape(images)),
        blend(targets, tf.gather(targets, partner), target_share),
    )
