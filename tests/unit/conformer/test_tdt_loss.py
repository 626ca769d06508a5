"""The loss of token-and-duration transducers against all paths, one by one."""

import json

import numpy as np
import pytest
import tensorflow as tf

from conformer.tdt_loss import tdt_loss
from tests.support.conformer_reference import softmax

SYMBOLS = 4
FRAMES, COUNTS = [4, 3, 1, 0, 5], [2, 0, 1, 0, 3]


def of_all_paths(logits, labels, durations, num_symbols=SYMBOLS, *, blank=0, sigma=0.0):
    """Returns the loss of logits `[T, U + 1, V + N]`: sums over paths, each followed to its end."""
    symbols = np.log(softmax(logits[..., :num_symbols])) - sigma
    lasting = np.log(softmax(logits[..., num_symbols:]))
    frames = len(logits)

    def follow(t, u):
        if t == frames:
            return 0.0  # a path ends with the blank that led here, see below
        total = 0.0
        for number, duration in enumerate(durations):
            weight = np.exp(lasting[t, u, number])
            ends = t + duration == frames and u == len(labels)
            if duration > 0 and (t + duration < frames or ends):
                rest = 1.0 if ends else follow(t + duration, u)
                total += weight * np.exp(symbols[t, u, blank]) * rest
            if u < len(labels) and t + duration < frames:
                total += weight * np.exp(symbols[t, u, labels[u]]) * follow(t + duration, u + 1)
        return total

    with np.errstate(divide="ignore"):
        return -np.log(follow(0, 0)) if frames else (np.inf if len(labels) else 0.0)


@pytest.fixture
def batch(rng):
    """Returns a function of the number of durations: logits with garbage in padding, and labels."""

    def made(num_durations):
        logits = rng.normal(size=(5, 6, 4, SYMBOLS + num_durations)) * 2
        labels = rng.integers(1, SYMBOLS, (5, 3))
        garbage = [np.nan, np.inf, -np.inf, np.nan, 1e30]
        rows = []
        for row, (frames, count) in enumerate(zip(FRAMES, COUNTS, strict=True)):
            rows.append((logits[row, :frames, : count + 1].copy(), labels[row, :count]))
            logits[row, frames:] = logits[row, :, count + 1 :] = garbage[row]
            labels[row, count:] = 99
        return logits.astype("float32"), labels, rows

    return made


@pytest.mark.parametrize(
    ("durations", "sigma"),
    [((0, 1, 2, 3, 4), 0.0), ((0, 1, 2), 0.05), ((1,), 0.0), ((1, 3), 0.0), ((0, 2), 0.0)],
)
def test_the_loss_sums_all_paths(batch, durations, sigma):
    logits, labels, rows = batch(len(durations))
    found = tdt_loss(logits, labels, FRAMES, COUNTS, durations=durations, sigma=sigma)
    expected = [of_all_paths(x, y, durations, sigma=sigma) for x, y in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isinf(found).any() == (1 not in durations or 0 not in durations)


def test_the_gradient_equals_finite_differences(batch):
    durations = (0, 1, 3)
    logits, labels, rows = batch(3)

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            losses = tdt_loss(x, labels, FRAMES, COUNTS, durations=durations)
            total = tf.reduce_sum(losses * [1.0, 2.0, 0.5, 1.0, 1.0])
        return tape.gradient(total, x)

    found = gradients(tf.constant(logits)).numpy()
    rng = np.random.default_rng(4)
    for row, (weight, (x, y)) in enumerate(zip([1.0, 2.0, 0.5, 1.0, 1.0], rows, strict=True)):
        direction = rng.normal(size=x.shape)
        ahead, behind = (
            of_all_paths(x + sign * 1e-5 * direction, y, durations) for sign in (1, -1)
        )
        inside = found[row, : x.shape[0], : x.shape[1]]
        slope = np.sum(inside * direction)
        assert slope == pytest.approx(weight * (ahead - behind) / 2e-5, rel=1e-4, abs=1e-5)
        rest = found[row].copy()
        rest[: x.shape[0], : x.shape[1]] = 0
        assert not np.any(rest)


def test_a_long_utterance_has_an_exact_loss():
    """With equal logits every path has the same weight, so that paths can be counted."""
    frames, count = 60, 25
    logits = np.zeros((1, frames, count + 1, SYMBOLS + 2), "float32")
    found = tdt_loss(logits, np.ones((1, count)), [frames], [count], durations=(0, 1))
    # Blanks move by 1, labels by 0 or 1: choose the labels with duration 1 and their places. The
    # blank at the end is not chosen.
    ways = np.zeros((frames, count + 1), object)
    ways[0, 0] = {0: 1}
    for t, u in np.ndindex(frames, count + 1):
        if (t, u) == (0, 0):
            continue
        here = {}
        for before in ((t - 1, u), (t - 1, u - 1), (t, u - 1)):
            if min(before) >= 0:
                for steps, number in ways[before].items():
                    here[steps + 1] = here.get(steps + 1, 0) + number
        ways[t, u] = here
    total = sum(
        number * (1 / (2 * SYMBOLS)) ** (steps + 1) for steps, number in ways[-1, -1].items()
    )
    np.testing.assert_allclose(found, [-np.log(total)], rtol=1e-6)


@pytest.mark.parametrize(
    ("durations", "shape"),
    [((), (1, 2, 2, 5)), ((1, 0), (1, 2, 2, 6)), ((0,), (1, 2, 2, 5)), ((0, 1), (2, 2, 6))],
)
def test_other_arguments_are_refused(durations, shape):
    with pytest.raises(ValueError, match="Expected"):
        tdt_loss(np.zeros(shape, "f4"), np.ones((1, 1)), [2], [1], durations=durations)


def test_the_golden_loss(shared_data):
    folder = shared_data / "golden_parakeet" / "tdt"
    config = json.loads((folder / "config.json").read_text())
    with np.load(folder / "golden.npz") as file:
        logits, labels = file["teacher_logits"], file["teacher_labels"]
        frames, expected = file["encoder_mask"].sum(axis=1), file["teacher_loss"]
    counts = (labels != config["pad_token_id"]).sum(axis=1)
    blank, durations = config["blank_token_id"], config["durations"]
    losses = tdt_loss(logits, labels, frames, counts, durations=durations, blank=blank)
    np.testing.assert_allclose(np.mean(losses / counts), expected, rtol=1e-5)
