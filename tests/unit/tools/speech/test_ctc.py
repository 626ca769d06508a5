"""The CTC loss of ragged batches against the sum over all paths."""

from itertools import groupby, product

import numpy as np
import pytest
import tensorflow as tf

from tools.speech.ctc import ctc_loss


def loss_of_all_paths(logits, labels, blank):
    """Minus the logarithm of the probability of every path that collapses to the labels."""
    scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    total = 0.0
    for path in product(range(logits.shape[1]), repeat=len(logits)):
        if [x for x, _ in groupby(path) if x != blank] == list(labels):
            total += np.exp(sum(scores[frame, x] for frame, x in enumerate(path)))
    return -np.log(total)


@pytest.mark.parametrize("blank", [0, 2, 3])
def test_ragged_rows_with_garbage_in_the_padding(rng, blank):
    logits = rng.normal(size=(8, 5, 4)).astype("float32")
    letters = [x for x in range(4) if x != blank]
    labels = np.array(
        [[0, 1, 2], [1, 1, 9], [2, 2, 2], [0, 9, 9], [9, 9, 9], [9, 9, 9], [0, 0, 0], [1, 1, 1]]
    )
    labels[labels < 3] = np.array(letters)[labels[labels < 3]]
    label_lengths, logit_lengths = [3, 2, 3, 1, 0, 0, 1, 1], [5, 3, 4, 5, 4, 0, 1, 1]
    arguments = (logits, labels, logit_lengths, label_lengths)
    losses, fits = ctc_loss(*map(tf.constant, arguments), blank=blank)
    # The third needs five frames for its repetitions, the sixth has none; the last two need one,
    # since what is equal in their padding is no repetition.
    assert fits.numpy().tolist() == [True, True, False, True, True, False, True, True]
    for row in np.flatnonzero(fits):
        frames, count = logit_lengths[row], label_lengths[row]
        expected = loss_of_all_paths(logits[row, :frames], labels[row, :count], blank)
        np.testing.assert_allclose(losses[row], expected, rtol=1e-5)
    np.testing.assert_array_equal(losses.numpy()[~fits.numpy()], [0, 0])


def test_gradients_stay_inside_what_counts(rng):
    logits = tf.Variable(rng.normal(size=(2, 4, 3)).astype("float32"))
    labels, lengths = tf.constant([[1, 2], [1, 1]]), tf.constant([3, 2])
    with tf.GradientTape() as tape:
        losses, _ = ctc_loss(logits, labels, lengths, tf.constant([2, 2]), blank=0)
        loss = tf.reduce_sum(losses)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.all(np.abs(gradient[0, :3]).max(axis=-1) > 1e-3)
    np.testing.assert_array_equal(gradient[0, 3], 0)
    np.testing.assert_array_equal(gradient[1], 0)
