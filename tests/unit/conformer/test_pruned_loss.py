"""Compares the pruned transducer loss with the exact one and with naive sums over its states."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from conformer.joint import JointNetwork, SimpleJoint
from conformer.lattice import Lattice
from conformer.pruned_loss import first_states, pruned_transducer_loss, scales
from conformer.transducer_loss import transducer_loss

WIDTH, VOCABULARY = 5, 6


def make_joints(policy="float32", vocabulary_size=VOCABULARY):
    keras.utils.set_random_seed(1)
    joints = (
        JointNetwork(7, vocabulary_size, dtype=policy),
        SimpleJoint(vocabulary_size, dtype=policy),
    )
    for joint in joints:
        joint.build((None, None, WIDTH), (None, None, WIDTH))
        for variable in joint.weights:
            variable.assign(np.random.default_rng(variable.shape[-1]).normal(0, 1, variable.shape))
    return joints


def make_batch(frames, label_lengths, dtype="float32", blank=0):
    """Returns encoded, predicted and labels; one more frame and two more states are padding."""
    rng = np.random.default_rng(3)
    states = max(label_lengths) + 3
    shapes = [(len(frames), max(frames) + 1, WIDTH), (len(frames), states, WIDTH)]
    encoded, predicted = (tf.constant(rng.normal(0, 1.5, shape), dtype) for shape in shapes)
    symbols = [symbol for symbol in range(VOCABULARY) if symbol != blank]
    return encoded, predicted, rng.choice(symbols, (len(frames), states - 1)).astype(np.int32)


def losses_and_gradients(joints, batch, frames, label_lengths, s_range, blank=0):
    """Returns simple and pruned losses, and the gradients of their weighted sum."""
    encoded, predicted, labels = batch
    with tf.GradientTape() as tape:
        tape.watch([encoded, predicted])
        losses = pruned_transducer_loss(
            encoded, predicted, joints, labels, logit_lengths=np.array(frames),
            label_lengths=np.array(label_lengths), s_range=s_range, blank=blank,
        )  # fmt: skip
        weights = tf.range(1.0, len(frames) + 1)
        total = tf.reduce_sum(weights * (losses.pruned + 0.5 * losses.simple))
    variables = [v.value for joint in joints for v in joint.trainable_variables]
    gradients = tape.gradient(total, [encoded, predicted, *variables])
    return *(x.numpy() for x in losses), [np.array(tf.cast(g, tf.float32)) for g in gradients]


def exact(joints, batch, frames, label_lengths, blank=0):
    """Returns the same from all logits of both joint networks."""
    encoded, predicted, labels = batch
    lengths = np.array(frames), np.array(label_lengths)
    with tf.GradientTape() as tape:
        tape.watch([encoded, predicted])
        of_frames, of_states = joints[1](encoded, predicted)
        all_logits = (of_frames[:, :, None] + of_states[:, None], joints[0](encoded, predicted))
        losses = [transducer_loss(x, labels, *lengths, blank=blank) for x in all_logits]
        weights = tf.range(1.0, len(frames) + 1)
        total = tf.reduce_sum(weights * (losses[1] + 0.5 * losses[0]))
    variables = [v.value for joint in joints for v in joint.trainable_variables]
    gradients = tape.gradient(total, [encoded, predicted, *variables])
    return *(x.numpy() for x in losses), [np.array(tf.cast(g, tf.float32)) for g in gradients]


def compare(found, expected, rtol=1e-5, atol=3e-5):
    for ours, reference in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(ours, reference, rtol=rtol, atol=1e-6)
    for ours, reference in zip(found[2], expected[2], strict=True):
        np.testing.assert_allclose(ours, reference, atol=atol * max(1.0, np.abs(reference).max()))


@pytest.mark.parametrize("blank", [0, 2, 5])
def test_with_all_states_it_is_the_exact_loss(blank):
    frames, label_lengths = [5, 1, 3, 2, 4], [3, 2, 0, 4, 1]
    batch, joints = make_batch(frames, label_lengths, blank=blank), make_joints()
    found = losses_and_gradients(joints, batch, frames, label_lengths, 7, blank)
    compare(found, exact(joints, batch, frames, label_lengths, blank))


@settings(deadline=None, max_examples=8, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=3),
    extra=st.integers(0, 3),
)
def test_any_lengths_with_all_states(rows, extra):
    rows = [(frames, labels if frames else 0) for frames, labels in rows]  # a finite loss
    frames, label_lengths = zip(*rows, strict=True)
    batch, joints = make_batch(frames, label_lengths), make_joints()
    found = losses_and_gradients(
        joints, batch, frames, label_lengths, max(label_lengths) + 3 + extra
    )
    compare(found, exact(joints, batch, frames, label_lengths))


def naive(blank, label, first, label_length):
    """Returns the log probability of one utterance `[T, S]`, over the states of each frame."""
    frames, width = blank.shape
    alpha = {(0, 0): tf.zeros([], tf.float64)}
    for t in range(frames):
        for u in range(first[t], first[t] + width):
            if (t, u) not in alpha or u > label_length:
                continue
            edges = [((t + 1, u), blank[t, u - first[t]])]
            if u < min(label_length, first[t] + width - 1):
                edges.append(((t, u + 1), label[t, u - first[t]]))
            for node, edge in edges:
                arriving = alpha[t, u] + edge
                inside = node[0] == frames or 0 <= node[1] - first[node[0]] < width
                if inside:
                    other = alpha.get(node)
                    alpha[node] = (
                        arriving if other is None else tf.reduce_logsumexp([other, arriving])
                    )
    return alpha[frames, label_length]


@pytest.mark.parametrize("seed", range(3))
def test_a_lattice_of_some_states_is_the_naive_sum(seed):
    rng = np.random.default_rng(seed)
    frames, label_lengths = np.array([[6, 4, 3], [5, 2, 0]], np.int32)
    width = 3
    first = np.zeros((3, 7), np.int32)
    for row, (t, u) in enumerate(zip(frames, label_lengths, strict=True)):
        last = max(u + 1 - width, 0)
        first[row, 1 : t - 1] = np.sort(rng.integers(0, last + 1, t - 2))
        first[row, t - 1 :] = last
        for step in range(t - 1, 0, -1):
            first[row, step - 1] = max(first[row, step - 1], first[row, step] - width + 1)
    edges = tf.constant(-rng.exponential(2.0, (2, 3, 7, width)), tf.float64)
    lattice = Lattice(edges[0], edges[1], frames, label_lengths, first_states=first)
    blanks, labels = lattice.occupancies()
    for row, (t, u) in enumerate(zip(frames, label_lengths, strict=True)):
        with tf.GradientTape() as tape:
            tape.watch(edges)
            expected = naive(edges[0, row, :t], edges[1, row, :t], first[row], u)
        assert lattice.log_likelihood[row].numpy() == pytest.approx(expected.numpy(), rel=1e-9)
        gradient = tape.gradient(expected, edges)
        np.testing.assert_allclose(blanks[row], gradient[0, row], atol=1e-6)
        np.testing.assert_allclose(labels[row], gradient[1, row], atol=1e-6)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8)), min_size=1, max_size=3),
    width=st.integers(2, 6),
    seed=st.integers(0, 5),
)
def test_states_of_a_frame_continue_those_before(rows, width, seed):
    frames, label_lengths = (np.array(x, np.int32) for x in zip(*rows, strict=True))
    num_states = label_lengths.max() + 1
    width = min(width, num_states)
    blanks, labels = np.random.default_rng(seed).uniform(
        size=(2, len(rows), frames.max() + 1, num_states)
    )
    first = first_states(blanks, labels, (frames, label_lengths), width).numpy()
    assert first.dtype == np.int32
    for row, (t, u) in enumerate(rows):
        own = first[row, :t]
        assert own[0] == 0 and np.all(own >= 0) and np.all(own <= max(u + 1 - width, 0))
        assert np.all((np.diff(own) >= 0) & (np.diff(own) <= max(width - 1, 0)))
        if u <= t * (width - 1):
            assert own[-1] + width - 1 >= u
    assert np.all(first >= 0) and np.all(first + width <= num_states)


def test_states_follow_the_likely_path():
    """Two labels in frame 3, three in frame 6 and one in frame 7 of eight."""
    blanks, labels = np.zeros((2, 1, 8, 7), np.float32)
    for t, u in enumerate([0, 0, 0, 2, 2, 2, 5, 6]):
        blanks[0, t, u] = 1.0
    for t, u in ((3, 0), (3, 1), (6, 2), (6, 3), (6, 4), (7, 5)):
        labels[0, t, u] = 1.0
    lengths = np.array([8], np.int32), np.array([6], np.int32)
    first = first_states(blanks, labels, lengths, 4).numpy()[0]
    for t, u in zip(*np.nonzero(blanks[0] + labels[0]), strict=True):
        assert first[t] <= u < first[t] + 4, (t, u, first)


def test_fewer_states_give_a_larger_loss_up_to_the_exact_one():
    frames, label_lengths = [12, 9], [8, 5]
    batch, joints = make_batch(frames, label_lengths), make_joints()
    found = [
        losses_and_gradients(joints, batch, frames, label_lengths, s_range)
        for s_range in (2, 4, 6, 11)
    ]
    for fewer, more in itertools.pairwise(found):
        assert np.all(fewer[1] >= more[1] - 1e-5)
        np.testing.assert_array_equal(fewer[0], more[0])
    assert np.all(found[0][1] > found[-1][1])


def test_more_labels_than_the_frames_allow_have_an_infinite_loss():
    frames, label_lengths = [2, 2, 3], [3, 2, 0]
    batch, joints = make_batch(frames, label_lengths), make_joints()
    simple, pruned, _ = losses_and_gradients(joints, batch, frames, label_lengths, 2)
    assert np.all(np.isfinite(simple)) and np.isinf(pruned[0]) and np.all(np.isfinite(pruned[1:]))
    _, pruned, gradients = losses_and_gradients(joints, batch, frames, label_lengths, 3)
    assert np.all(np.isfinite(pruned)) and all(np.all(np.isfinite(g)) for g in gradients)


def test_a_batch_without_labels_has_the_loss_of_its_blanks():
    frames, label_lengths = [4, 0], [0, 0]
    encoded, predicted, _ = make_batch(frames, label_lengths)
    batch, joints = (encoded, predicted[:, :1], np.zeros((2, 0), np.int32)), make_joints()
    found = losses_and_gradients(joints, batch, frames, label_lengths, 5)
    compare(found, exact(joints, batch, frames, label_lengths))
    assert found[1][0] > 0 and found[1][1] == 0


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
def test_garbage_in_padding_changes_nothing(garbage):
    frames, label_lengths = [6, 3], [3, 4]
    (encoded, predicted, labels), joints = make_batch(frames, label_lengths), make_joints()
    clean = losses_and_gradients(joints, (encoded, predicted, labels), frames, label_lengths, 3)
    encoded, predicted, labels = encoded.numpy(), predicted.numpy(), labels.copy()
    for row, (t, u) in enumerate(zip(frames, label_lengths, strict=True)):
        encoded[row, t:] = predicted[row, u + 1 :] = garbage
        labels[row, u:] = 10**6
    dirty = tf.constant(encoded), tf.constant(predicted), labels
    found = losses_and_gradients(joints, dirty, frames, label_lengths, 3)
    for ours, expected in zip((*found[:2], *found[2]), (*clean[:2], *clean[2]), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_terms_far_apart_stay_finite(scale):
    """The likely symbols of frames and states differ, and the sum of exponentials underflows."""
    frames, label_lengths = [6, 3], [3, 4]
    batch, joints = make_batch(frames, label_lengths), make_joints()
    joints[1].encoded_projection.bias.assign(scale * np.array([0, 2, 0, -1, 0, 0.5]))
    joints[1].predicted_projection.kernel.assign(scale * np.eye(WIDTH, VOCABULARY))
    simple, pruned, gradients = losses_and_gradients(joints, batch, frames, label_lengths, 3)
    assert np.all(np.isfinite(simple)) and np.all(np.isfinite(pruned))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_show_in_the_losses(value):
    batch, joints = make_batch([3], [2]), make_joints()
    joints[1].encoded_projection.bias.assign([0, 0, value, 0, 0, 0])
    simple, *_ = losses_and_gradients(joints, batch, [3], [2], 2)
    assert not np.isfinite(simple[0])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(policy):
    frames, label_lengths = [6, 4], [2, 3]
    batch = make_batch(frames, label_lengths, policy.removeprefix("mixed_"))
    joints = make_joints(policy)
    found = losses_and_gradients(joints, batch, frames, label_lengths, 6)
    compare(found, exact(joints, batch, frames, label_lengths), rtol=1e-4, atol=0.03)


def test_in_a_graph_with_unknown_sizes():
    joints = make_joints()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, WIDTH]),
            tf.TensorSpec([None, None, WIDTH]),
            *(tf.TensorSpec(shape, tf.int32) for shape in ([None, None], [None], [None])),
        ]
    )
    def in_graph(encoded, predicted, labels, frames, label_lengths):
        return pruned_transducer_loss(
            encoded, predicted, joints, labels, logit_lengths=frames, label_lengths=label_lengths,
            s_range=3,
        )  # fmt: skip

    for frames, label_lengths in (([5, 3], [4, 2]), ([2, 9, 4], [0, 1, 0])):
        batch = make_batch(frames, label_lengths)
        expected = losses_and_gradients(joints, batch, frames, label_lengths, 3)
        for ours, reference in zip(in_graph(*batch, frames, label_lengths), expected, strict=False):
            np.testing.assert_allclose(ours, reference, rtol=1e-5)


def test_the_weights_of_both_losses_change_in_the_warm_up():
    found = [[float(x) for x in scales(n, 0.5, 10)] for n in (0, 5, 10, 99)]
    np.testing.assert_allclose(found, [[1, 0.1], [0.75, 0.55], [0.5, 1], [0.5, 1]], rtol=1e-6)
    np.testing.assert_allclose([float(x) for x in scales(0, 0.25, 0)], [0.25, 1.0])
