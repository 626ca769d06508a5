"""Tests mixup and CutMix: weights, boxes, partners and targets."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from vision.augmentation_config import AugmentationConfig
from vision.mixing import Mixing, draw_mixing, mix, smooth_targets

SIDE = 64


def draw(config, num_rows=8, epoch=0, seed=0):
    return draw_mixing(config, SIDE, num_rows, epoch, generator=np.random.default_rng((1, seed)))


def draw_many(count=4000, **config):
    drawn = [draw(AugmentationConfig(**config), seed=seed) for seed in range(count)]
    return Mixing(*(np.concatenate(x) for x in zip(*drawn, strict=True)))


def areas(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / SIDE**2


def test_shares_of_mixup_follow_their_distribution():
    own, boxes = draw_many(cutmix=0.0, mixup=0.8)
    assert not np.any(boxes)
    assert stats.kstest(own, stats.beta(0.8, 0.8).cdf).pvalue > 1e-4


def test_boxes_of_cutmix_follow_their_distribution():
    own, boxes = draw_many(mixup=0.0, cutmix=1.0)
    assert np.all(own == 1)
    assert np.all((boxes >= 0) & (boxes <= SIDE))
    # Boxes inside the image have the area that was drawn; centers are anywhere.
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    whole = (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < SIDE).all(1)
    assert np.all(height[whole] == width[whole])
    generator = np.random.default_rng(5)
    side = SIDE * np.sqrt(1 - generator.beta(1.0, 1.0, 4000))
    center = generator.uniform(0, SIDE, (2, 4000))
    low, high = np.maximum(center - side / 2, 0), np.minimum(center + side / 2, SIDE)
    expected = np.prod(high - low, 0) / SIDE**2
    assert stats.ks_2samp(areas(boxes) + 1e-3, expected).statistic < 0.06


def test_switching_and_probability():
    own, boxes = draw_many(switch_prob=0.3, mixup_prob=0.6)
    cut, mixed = areas(boxes) > 0, own < 1
    assert not np.any(cut & mixed)
    # Boxes below two pixels have no area.
    assert np.mean(cut) == pytest.approx(0.6 * 0.3, abs=0.025)
    assert stats.binomtest(int(mixed.sum()), len(own), 0.6 * 0.7).pvalue > 1e-4


def test_off():
    for config, epoch in (
        (AugmentationConfig(mixup_off_epoch=3), 3),
        (AugmentationConfig(mixup=0.0, cutmix=0.0), 0),
        (AugmentationConfig(mixup_prob=0.0), 0),
    ):
        for seed in range(20):
            drawn = draw(config, epoch=epoch, seed=seed)
            assert np.all(drawn.own == 1)
            assert not np.any(drawn.boxes)
    before = [draw(AugmentationConfig(mixup_off_epoch=3), epoch=2, seed=s) for s in range(20)]
    assert any(drawn.own[0] < 1 for drawn in before)


def test_who_shares_random_numbers():
    config = {"cutmix": 0.0}
    assert len(draw(AugmentationConfig(**config)).own) == 1
    elements = draw(AugmentationConfig(mixup_mode="elem", **config)).own
    assert len(set(elements)) == 8
    for num_rows in (8, 7):
        pairs = draw(AugmentationConfig(mixup_mode="pair", **config), num_rows).own
        np.testing.assert_array_equal(pairs, pairs[::-1])
        assert len(set(pairs)) == (num_rows + 1) // 2


def test_smoothing():
    targets = smooth_targets(tf.constant([2, 0]), 4, 0.1).numpy()
    expected = [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]
    np.testing.assert_allclose(targets, expected, rtol=1e-6)
    np.testing.assert_array_equal(smooth_targets(tf.constant([1]), 3, 0.0), [[0, 1, 0]])


def naive(images, targets, usable, mixing):
    """Mixes pixel by pixel in float64."""
    images, targets = images.astype("float64"), targets.astype("float64")
    mixed, mixed_targets = images.copy(), targets.copy()
    for row in range(len(images)):
        partner = len(images) - 1 - row
        if not usable[row] or not usable[partner]:
            continue
        which = row if len(mixing.own) > 1 else 0
        own, (top, left, bottom, right) = mixing.own[which], mixing.boxes[which]
        for y in range(images.shape[1]):
            for x in range(images.shape[2]):
                share = 0.0 if top <= y < bottom and left <= x < right else own
                mixed[row, y, x] = share * images[row, y, x] + (1 - share) * images[partner, y, x]
        # The weight of a label is the fraction of its pixels.
        share = own * (1 - (bottom - top) * (right - left) / np.prod(images.shape[1:3]))
        mixed_targets[row] = share * targets[row] + (1 - share) * targets[partner]
    return mixed, mixed_targets


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("num_rows", [6, 5])
def test_against_the_naive_way(mode, num_rows, rng):
    images = rng.standard_normal((num_rows, 8, 8, 3)).astype("float32")
    targets = rng.dirichlet(np.ones(4), num_rows).astype("float32")
    run = tf.function(mix)
    for seed in range(6):
        config = AugmentationConfig(mixup_mode=mode)
        mixing = draw_mixing(config, 8, num_rows, 0, generator=np.random.default_rng((2, seed)))
        usable = np.ones(num_rows, bool)
        if seed % 2:
            usable[1] = False
        found = [x.numpy() for x in run(images, targets, usable, Mixing(*map(tf.constant, mixing)))]
        expected = naive(images, targets, usable, mixing)
        np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-6)
        np.testing.assert_allclose(found[1].sum(1), 1, atol=1e-6)


def test_target_of_cutmix_is_the_share_of_pixels():
    images = np.zeros((2, SIDE, SIDE, 3), "float32")
    images[1] = 1
    targets = np.eye(2, dtype="float32")
    for seed in range(10):
        mixing = draw(AugmentationConfig(mixup=0.0), 2, seed=seed)
        mixed, found = mix(images, targets, np.ones(2, bool), Mixing(*map(tf.constant, mixing)))
        assert set(np.unique(mixed)) <= {0, 1}
        np.testing.assert_allclose(found[:, 1], tf.reduce_mean(mixed, [1, 2, 3]), atol=1e-6)
