"""Tests random erasing: how often, where, how much, and the fill."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from vision.augmentation_config import AugmentationConfig
from vision.erasing import draw_boxes, erase

SIDE = 200


def boxes_of(probability, max_count, count=4000, side=SIDE):
    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(3, tf.int64), i]))
    found = seeds.map(lambda seed: draw_boxes(side, probability, max_count, seed))
    return next(iter(found.batch(count))).numpy()


def test_how_often_where_and_how_much():
    boxes = boxes_of(0.25, 1)[:, 0]
    drawn = boxes[boxes[:, 2] > 0]
    assert stats.binomtest(len(drawn), len(boxes), 0.25).pvalue > 1e-4
    top, left, height, width = drawn.T
    assert np.all((top >= 0) & (left >= 0) & (top + height <= SIDE) & (left + width <= SIDE))
    area, ratio = height * width / SIDE**2, height / width
    assert area.min() >= 0.019
    assert area.max() <= 0.34
    # For areas up to 0.27, boxes of all ratios fit into the image.
    inside = area < 0.27
    assert stats.kstest(area[inside], stats.uniform(0.02, 0.25).cdf).pvalue > 1e-4
    logs = np.log(ratio[inside])
    assert stats.kstest(logs, stats.uniform(np.log(0.3), -2 * np.log(0.3)).cdf).pvalue > 1e-4
    for place, free in ((top, SIDE - height), (left, SIDE - width)):
        assert stats.kstest((place + 0.5) / (free + 1), stats.uniform().cdf).pvalue > 1e-4


def test_several_boxes_share_the_area():
    boxes = boxes_of(1.0, 3)
    counts = np.count_nonzero(boxes[:, :, 2], axis=1)
    assert stats.chisquare(np.bincount(counts, minlength=4)[1:]).pvalue > 1e-4
    areas = boxes[..., 2] * boxes[..., 3] / SIDE**2
    for count in (1, 2, 3):
        assert areas[counts == count].max() <= (1 / 3) / count + 0.01
        assert areas[counts == count].max() >= (1 / 3) / count * 0.9
    # Rows without a box are zero.
    assert not np.any(boxes[boxes[..., 2] == 0])


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_what_comes_there(mode):
    config = AugmentationConfig(re_prob=1.0, re_mode=mode, re_count=2)
    original = np.full((64, 64, 3), 7.0, "float32")
    run = tf.function(lambda box, noise: erase(tf.constant(original), config, box, noise))
    erased = []
    for number in range(60):
        seeds = tf.constant([1, number], tf.int64), tf.constant([2, number], tf.int64)
        found = run(*seeds).numpy()
        boxes = draw_boxes(64, 1.0, 2, seeds[0]).numpy()
        inside = np.zeros((64, 64), bool)
        for top, left, height, width in boxes:
            inside[top : top + height, left : left + width] = True
        assert np.all(found[~inside] == 7)
        np.testing.assert_array_equal(found, run(*seeds).numpy())
        first = boxes[0]
        if boxes[1, 2] == 0:
            patch = found[first[0] : first[0] + first[2], first[1] : first[1] + first[3]]
            erased.append(patch.reshape(-1, 3))
    assert len(erased) > 10
    if mode == "const":
        assert not np.any(np.concatenate(erased))
        return
    if mode == "rand":
        assert all(np.all(patch == patch[0]) for patch in erased)
        erased = [patch[:1] for patch in erased]
    values = np.concatenate(erased)
    assert stats.kstest(values[:5000].ravel(), "norm").pvalue > 1e-4
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.6


def test_no_box_is_as_high_or_wide_as_the_image():
    """A box of a third of the area would be too high or too wide for a quarter of the ratios."""
    sides = boxes_of(1.0, 1, count=2000, side=8)[:, 0, 2:]
    assert sides.max(axis=0).tolist() == [7, 7]


def test_boxes_of_an_image_have_their_own_colors():
    config = AugmentationConfig(re_prob=1.0, re_mode="rand", re_count=2)
    original, compared = np.full((64, 64, 3), 7.0, "float32"), 0
    for number in range(20):
        seeds = tf.constant([1, number], tf.int64), tf.constant([2, number], tf.int64)
        if np.all(draw_boxes(64, 1.0, 2, seeds[0])[:, 2] > 0):
            found = erase(tf.constant(original), config, *seeds).numpy().reshape(-1, 3)
            colors = np.unique(found, axis=0)
            assert len(colors) in (2, 3)  # the second box may cover the first
            compared += len(colors) == 3
    assert compared > 3


def test_off():
    image = tf.ones([8, 8, 3])
    seed = tf.constant([1, 2], tf.int64)
    assert erase(image, AugmentationConfig(re_prob=0.0), seed, seed) is image
