"""Compares the transducer loss and its gradient with enumerated paths and plain recursions."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from conformer.lattice import Lattice
from conformer.transducer_loss import transducer_loss
from tests.support import conformer_reference as reference

FRAMES = np.array([5, 1, 3, 2, 4], np.int32)
LABEL_LENGTHS = np.array([3, 2, 0, 4, 1], np.int32)  # T > U, T = 1, empty, T < U, T > U
GARBAGE = [np.nan, np.inf, -np.inf, 1e30, -65000.0]


def make_batch(blank=0, vocabulary_size=6, frames=FRAMES, label_lengths=LABEL_LENGTHS, scale=2.0):
    """Returns ragged random logits and labels, with two extra rows and columns of zeros."""
    generator = np.random.default_rng(3)
    shape = (len(frames), frames.max() + 2, label_lengths.max() + 2 + 1, vocabulary_size)
    logits = generator.normal(0.0, scale, shape).astype(np.float32)
    symbols = [symbol for symbol in range(vocabulary_size) if symbol != blank]
    labels = generator.choice(symbols, (len(frames), shape[2] - 1)).astype(np.int32)
    logits[~is_valid(shape, frames, label_lengths)] = 0.0
    return logits, labels, frames, label_lengths


def is_valid(shape, frames, label_lengths) -> np.ndarray:
    """Returns a mask [B, T, U + 1] of the valid nodes."""
    t, u = np.arange(shape[1])[None, :, None], np.arange(shape[2])[None, None]
    return (t < frames[:, None, None]) & (u <= label_lengths[:, None, None])


def loss_and_gradient_tensors(logits, labels, frames, label_lengths, blank=0, weights=None):
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = transducer_loss(logits, labels, frames, label_lengths, blank=blank)
        total = tf.reduce_sum(losses if weights is None else losses * weights)
    return losses, tape.gradient(total, logits)


def loss_and_gradient(logits, *arguments, **options):
    logits = tf.convert_to_tensor(logits)
    return tuple(x.numpy() for x in loss_and_gradient_tensors(logits, *arguments, **options))


def enumerated_loss(logits, labels, blank) -> float:
    """Sums the probabilities of all alignments of one utterance [T, U + 1, V], one by one."""
    logits = logits.astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    num_frames, num_labels = logits.shape[0], logits.shape[1] - 1
    total = 0.0
    # T blanks and U labels in any order, except that the last is a blank.
    steps = num_frames - 1 + num_labels
    for label_steps in itertools.combinations(range(steps), num_labels):
        t = u = 0
        probability = 1.0
        for step in range(steps + 1):
            if step in label_steps:
                probability *= probabilities[t, u, labels[u]]
                u += 1
            else:
                probability *= probabilities[t, u, blank]
                t += 1
        assert (t, u) == (num_frames, num_labels)
        total += probability
    return -np.log(total)


def naive_loss(logits, labels, blank) -> tf.Tensor:
    """Computes the forward recursion of Graves for one utterance in float64, differentiable."""
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float64))
    num_frames, num_states = logits.shape[:2]
    alpha = {}
    for t in range(num_frames):
        for u in range(num_states):
            arriving = [tf.zeros([], tf.float64)] if t == u == 0 else []
            if t > 0:
                arriving.append(alpha[t - 1, u] + log_probabilities[t - 1, u, blank])
            if u > 0:
                arriving.append(alpha[t, u - 1] + log_probabilities[t, u - 1, labels[u - 1]])
            alpha[t, u] = tf.reduce_logsumexp(tf.stack(arriving))
    return -(alpha[num_frames - 1, num_states - 1] + log_probabilities[-1, -1, blank])


def naive_loss_and_gradient(logits, labels, frames, label_lengths, blank=0):
    losses, gradients = [], np.zeros(logits.shape)
    for row, (num_frames, num_labels) in enumerate(zip(frames, label_lengths, strict=True)):
        valid = tf.constant(logits[row, :num_frames, : num_labels + 1], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(valid)
            loss = naive_loss(valid, labels[row], blank)
        losses.append(float(loss))
        gradients[row, :num_frames, : num_labels + 1] = tape.gradient(loss, valid)
    return np.array(losses), gradients


@pytest.mark.parametrize("blank", [0, 2, 5])
def test_value_is_the_sum_over_all_alignments(blank):
    logits, labels, frames, label_lengths = make_batch(blank)
    losses = transducer_loss(logits, labels, frames, label_lengths, blank=blank)
    assert losses.dtype == tf.float32 and losses.shape == [5]
    for row, (t, u) in enumerate(zip(frames, label_lengths, strict=True)):
        expected = enumerated_loss(logits[row, :t, : u + 1], labels[row], blank)
        assert losses[row].numpy() == pytest.approx(expected, rel=1e-5)
        naive = float(naive_loss(tf.constant(logits[row, :t, : u + 1]), labels[row], blank))
        assert naive == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("blank", [0, 2, 5])
def test_gradient_is_the_naive_one(blank):
    batch = make_batch(blank)
    expected_losses, expected_gradient = naive_loss_and_gradient(*batch, blank)
    losses, gradient = loss_and_gradient(*batch, blank)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-6)


def test_gradient_by_finite_differences():
    frames, label_lengths = np.array([3, 2], np.int32), np.array([2, 1], np.int32)
    logits, labels, *_ = make_batch(1, 3, frames, label_lengths, scale=1.0)
    _, gradient = loss_and_gradient(logits, labels, frames, label_lengths, 1)
    # Steps of 0.02: float32 rounding and the third derivative both stay below 2e-4.
    step = 0.02
    indices = list(np.ndindex(*logits.shape))
    shifts = np.zeros((len(indices), *logits.shape), np.float32)
    for number, index in enumerate(indices):
        shifts[(number, *index)] = step

    def losses(sign: int) -> np.ndarray:
        moved = (logits + sign * shifts).reshape(-1, *logits.shape[1:])
        copies = len(indices)
        result = transducer_loss(
            moved,
            np.tile(labels, (copies, 1)),
            np.tile(frames, copies),
            np.tile(label_lengths, copies),
            blank=1,
        )
        return result.numpy().reshape(copies, -1).sum(1)

    numeric = (losses(1) - losses(-1)) / (2 * step)
    np.testing.assert_allclose(gradient.ravel(), numeric, atol=2e-4)


def test_two_symbols():
    frames, label_lengths = np.array([4, 2], np.int32), np.array([2, 3], np.int32)
    batch = make_batch(1, 2, frames, label_lengths)
    expected_losses, expected_gradient = naive_loss_and_gradient(*batch, 1)
    losses, gradient = loss_and_gradient(*batch, 1)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-6)


def test_one_frame_and_no_label_is_the_probability_of_blank():
    logits = np.array([[[[1.0, 2.0, 3.0]]]], np.float32)
    labels = np.zeros((1, 0), np.int32)
    loss, gradient = loss_and_gradient(logits, labels, [1], [0], 2)
    probabilities = np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    assert loss[0] == pytest.approx(-np.log(probabilities[2]), rel=1e-6)
    np.testing.assert_allclose(gradient[0, 0, 0], probabilities - [0, 0, 1], atol=1e-6)


def test_equal_logits_have_a_closed_form():
    # Every alignment has probability V^-(T+U), and there are (T-1+U choose U) of them.
    losses = transducer_loss(np.zeros((1, 3, 3, 4), np.float32), [[1, 2]], [3], [2])
    assert losses.numpy()[0] == pytest.approx(5 * np.log(4) - np.log(6), rel=1e-6)


@pytest.mark.parametrize("garbage", GARBAGE, ids=str)
def test_garbage_in_padding_changes_nothing(garbage):
    logits, labels, frames, label_lengths = make_batch()
    padding = ~is_valid(logits.shape, frames, label_lengths)
    losses, gradient = loss_and_gradient(logits, labels, frames, label_lengths)
    assert np.all(gradient[padding] == 0.0)
    assert np.all(np.any(gradient != 0, axis=-1)[~padding])

    dirty = logits.copy()
    dirty[padding] = garbage
    dirty_losses, dirty_gradient = loss_and_gradient(dirty, labels, frames, label_lengths)
    np.testing.assert_array_equal(dirty_losses, losses)
    np.testing.assert_array_equal(dirty_gradient, gradient)


@pytest.mark.parametrize("garbage", [-7, -1, 0, 6, 10**6])
def test_garbage_in_label_padding_changes_nothing(garbage):
    logits, labels, frames, label_lengths = make_batch()
    losses, gradient = loss_and_gradient(logits, labels, frames, label_lengths)
    labels[np.arange(labels.shape[1]) >= label_lengths[:, None]] = garbage
    dirty_losses, dirty_gradient = loss_and_gradient(logits, labels, frames, label_lengths)
    np.testing.assert_array_equal(dirty_losses, losses)
    np.testing.assert_array_equal(dirty_gradient, gradient)


def test_alone_as_in_a_batch():
    logits, labels, frames, label_lengths = make_batch()
    losses, gradient = loss_and_gradient(logits, labels, frames, label_lengths)
    for row, (t, u) in enumerate(zip(frames, label_lengths, strict=True)):
        alone = logits[row : row + 1, :t, : u + 1], labels[row : row + 1, :u], [t], [u]
        loss, own_gradient = loss_and_gradient(*alone)
        np.testing.assert_allclose(loss[0], losses[row], rtol=1e-6)
        np.testing.assert_allclose(own_gradient[0], gradient[row, :t, : u + 1], atol=1e-6)


def test_a_masked_row_costs_nothing():
    logits, labels, frames, label_lengths = make_batch()
    frames, label_lengths = frames.copy(), label_lengths.copy()
    whole, whole_gradient = loss_and_gradient(logits, labels, frames, label_lengths)
    frames[1] = label_lengths[1] = 0
    logits[1] = np.nan
    losses, gradient = loss_and_gradient(logits, labels, frames, label_lengths)
    assert losses[1] == 0.0 and np.all(gradient[1] == 0.0)
    others = [0, 2, 3, 4]
    np.testing.assert_array_equal(losses[others], whole[others])
    np.testing.assert_array_equal(gradient[others], whole_gradient[others])


def test_upstream_weights_belong_to_their_utterances():
    batch = make_batch()
    weights = np.array([0.5, -2.0, 0.0, 3.0, 1.0], np.float32)
    _, gradient = loss_and_gradient(*batch)
    _, weighted = loss_and_gradient(*batch, weights=weights)
    np.testing.assert_allclose(weighted, gradient * weights[:, None, None, None], atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float16, 5e-4), (tf.bfloat16, 4e-3)])
def test_half_precision_logits_are_summed_in_float32(dtype, tolerance):
    logits, labels, frames, label_lengths = make_batch()
    half = tf.cast(logits, dtype)
    rounded = tf.cast(half, tf.float32).numpy()
    expected_losses, expected_gradient = loss_and_gradient(rounded, labels, frames, label_lengths)
    losses, gradient = loss_and_gradient(half, labels, frames, label_lengths)
    assert losses.dtype == np.float32 and gradient.dtype == dtype.as_numpy_dtype
    np.testing.assert_array_equal(losses, expected_losses)
    np.testing.assert_allclose(gradient.astype(np.float32), expected_gradient, atol=tolerance)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16])
def test_huge_logits_stay_finite(dtype):
    logits, labels, frames, label_lengths = make_batch(scale=1e4)
    logits = tf.cast(tf.clip_by_value(logits, -3e4, 3e4), dtype)
    exact = tf.cast(logits, tf.float32).numpy()
    expected, _ = naive_loss_and_gradient(exact, labels, frames, label_lengths)
    losses, gradient = loss_and_gradient(logits, labels, frames, label_lengths)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    gradient = gradient.astype(np.float32)
    assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() <= 1.01


def test_all_logits_alike_huge():
    frames, label_lengths = np.array([3], np.int32), np.array([2], np.int32)
    for level in (1e4, -1e4):
        logits = np.full((1, 3, 3, 4), level, np.float32)
        loss = transducer_loss(logits, [[1, 2]], frames, label_lengths)
        assert loss.numpy()[0] == pytest.approx(5 * np.log(4) - np.log(6), rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("symbol", range(6))
def test_non_finite_logits_of_an_utterance_show_in_its_loss_alone(value, symbol):
    logits, labels, frames, label_lengths = make_batch()
    expected = transducer_loss(logits, labels, frames, label_lengths).numpy()
    logits[0, 1, 1, symbol] = value
    losses = transducer_loss(logits, labels, frames, label_lengths).numpy()
    assert not np.isfinite(losses[0])
    np.testing.assert_array_equal(losses[1:], expected[1:])


def test_the_gradient_of_every_node_sums_to_zero():
    logits, labels, frames, label_lengths = make_batch()
    _, gradient = loss_and_gradient(logits, labels, frames, label_lengths)
    np.testing.assert_allclose(gradient.sum(-1), 0.0, atol=1e-6)
    # Adding a constant to the logits of a node therefore does not change the loss.
    shift = np.random.default_rng(0).normal(0, 5, (*logits.shape[:3], 1)).astype(np.float32)
    shifted = transducer_loss(logits + shift, labels, frames, label_lengths)
    expected = transducer_loss(logits, labels, frames, label_lengths)
    np.testing.assert_allclose(shifted, expected, rtol=1e-5)


def test_long_utterances():
    frames, label_lengths = np.array([300, 40], np.int32), np.array([50, 80], np.int32)
    logits, labels, *_ = make_batch(0, 12, frames, label_lengths)
    in_graph = tf.function(lambda x: loss_and_gradient_tensors(x, labels, frames, label_lengths))
    losses, gradient = (x.numpy() for x in in_graph(tf.constant(logits)))
    for row, (num_frames, num_labels) in enumerate(zip(frames, label_lengths, strict=True)):
        valid = logits[row, :num_frames, : num_labels + 1].astype(np.float64)
        expected = reference.transducer_loss(valid, labels[row, :num_labels])
        assert losses[row] == pytest.approx(expected, rel=1e-5)
    assert np.all(np.isfinite(gradient))

    # Along a random direction the loss falls as the gradient says.
    direction = np.random.default_rng(1).normal(0, 1, logits.shape).astype(np.float32)
    ahead, behind = (
        in_graph(tf.constant(logits + step * direction))[0].numpy().sum() for step in (0.01, -0.01)
    )
    slope = float((gradient.astype(np.float64) * direction).sum())
    assert (ahead - behind) / 0.02 == pytest.approx(slope, rel=1e-2, abs=0.1)


def test_in_a_graph_with_unknown_sizes():
    traces = []

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, None], tf.float32),
            tf.TensorSpec([None, None], tf.int64),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None], tf.int64),
        ]
    )
    def in_graph(logits, labels, frames, label_lengths):
        traces.append(1)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = transducer_loss(logits, labels, frames, label_lengths, blank=2)
        return losses, tape.gradient(losses, logits)

    other_lengths = np.array([2, 7], np.int32), np.array([5, 0], np.int32)
    for batch in (make_batch(2), make_batch(2, 9, *other_lengths)):
        losses, gradient = in_graph(*batch)
        expected_losses, expected_gradient = loss_and_gradient(*batch, 2)
        np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    assert len(traces) == 1


def test_labels_that_cannot_be_emitted_cost_infinity():
    logits, labels, frames, label_lengths = make_batch()
    frames = frames.copy()
    expected = transducer_loss(logits, labels, frames, label_lengths).numpy()
    frames[0] = 0  # three labels, no frame
    logits[3, ..., labels[3, 0]] = -np.inf
    losses = transducer_loss(logits, labels, frames, label_lengths).numpy()
    assert losses[0] == losses[3] == np.inf
    np.testing.assert_array_equal(losses[[1, 2, 4]], expected[[1, 2, 4]])


def test_a_symbol_that_is_ruled_out_is_no_harm():
    logits, labels, frames, label_lengths = make_batch()
    labels[labels == 5] = 4
    logits[..., 5] = -np.inf
    expected = naive_loss_and_gradient(logits[..., :5], labels, frames, label_lengths)
    losses, gradient = loss_and_gradient(logits, labels, frames, label_lengths)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient[..., :5], expected[1], atol=2e-6)
    assert np.all(gradient[..., 5] == 0.0)


@pytest.mark.parametrize("argument", range(4))
def test_mismatched_ranks_are_named(argument):
    batch = list(make_batch())
    batch[argument] = batch[argument][0]
    with pytest.raises(ValueError, match=r"logits \[B,T,U\+1,V\].*Received ranks"):
        transducer_loss(*batch)


def test_a_blank_outside_the_vocabulary_is_refused():
    for blank in (-1, 6):
        with pytest.raises(ValueError, match="blank"):
            transducer_loss(*make_batch(), blank=blank)


def test_every_label_is_emitted_once_and_every_frame_has_one_blank_in_a_long_lattice():
    """Log probabilities are in the thousands here, so that float32 has errors of 1e-4."""
    generator = np.random.default_rng(2)
    frames, label_lengths = np.array([600, 550], np.int32), np.array([80, 40], np.int32)
    edges = tf.constant(-3.0 - generator.exponential(2.0, (2, 2, 600, 81)), tf.float32)
    blanks, labels = Lattice(edges[0], edges[1], frames, label_lengths).occupancies()
    for row, (t, u) in enumerate(zip(frames, label_lengths, strict=True)):
        np.testing.assert_allclose(tf.reduce_sum(labels[row], axis=0)[:u], 1.0, rtol=5e-6)
        np.testing.assert_allclose(tf.reduce_sum(blanks[row], axis=1)[:t], 1.0, rtol=5e-6)
