"""Compares the fused transducer loss with the plain one, in value and in every gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from conformer.fused_loss import OutputLayer, fused_transducer_loss
from conformer.joint import JointNetwork
from conformer.transducer_loss import loss_of_pieces, transducer_loss

WIDTH = 5


def make_batch(frames, label_lengths, vocabulary_size=6, blank=0, dtype="float32", seed=3):
    """Returns encoded, predicted, kernel, bias and labels of random values; one more frame and two
    more states than the longest utterance has are padding."""
    rng = np.random.default_rng(seed)
    batch, states = len(frames), max(label_lengths) + 3
    shapes = [(batch, max(frames) + 1, WIDTH), (batch, states, WIDTH)]
    arrays = [tf.constant(rng.normal(0, 1.5, shape), dtype) for shape in shapes]
    kernel = tf.constant(rng.normal(0, 1.5, (WIDTH, vocabulary_size)), tf.float32)
    bias = tf.constant(rng.normal(0, 1, vocabulary_size), tf.float32)
    symbols = [symbol for symbol in range(vocabulary_size) if symbol != blank]
    labels = rng.choice(symbols, (batch, states - 1)).astype(np.int32)
    return [*arrays, kernel, bias], labels


def losses_and_gradients(function, inputs, weights):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        losses = function(*inputs)
        total = tf.reduce_sum(losses * weights)
    return losses.numpy(), [x.numpy().astype("f4") for x in tape.gradient(total, inputs)]


def both(inputs, labels, frames, label_lengths, *, blank=0, logits_at_once=1, keep_logits=False):
    """Returns losses and gradients of the fused loss and of the plain loss on all logits."""
    lengths = {"logit_lengths": np.array(frames), "label_lengths": np.array(label_lengths)}
    weights = tf.range(1.0, len(frames) + 1)

    def fused(encoded, predicted, kernel, bias):
        output = OutputLayer(kernel, bias)
        return fused_transducer_loss(
            encoded,
            predicted,
            output,
            labels,
            blank=blank,
            logits_at_once=logits_at_once,
            keep_logits=keep_logits,
            **lengths,
        )

    def plain(encoded, predicted, kernel, bias):
        hidden = tf.tanh(encoded[:, :, None] + predicted[:, None])
        logits = tf.tensordot(tf.cast(hidden, tf.float32), kernel, 1) + bias
        return transducer_loss(logits, labels, *lengths.values(), blank=blank)

    return [losses_and_gradients(function, inputs, weights) for function in (fused, plain)]


@pytest.mark.parametrize("logits_at_once", [1, 200, 10**6])
@pytest.mark.parametrize("blank", [0, 2, 5])
@pytest.mark.parametrize("keep_logits", [False, True])
def test_value_and_gradients_are_those_of_the_plain_loss(blank, logits_at_once, keep_logits):
    frames, label_lengths = [5, 1, 3, 2, 4], [3, 2, 0, 4, 1]
    batch = make_batch(frames, label_lengths, blank=blank)
    (losses, found), (expected_losses, expected) = both(
        *batch,
        frames,
        label_lengths,
        blank=blank,
        logits_at_once=logits_at_once,
        keep_logits=keep_logits,
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for gradient, other in zip(found, expected, strict=True):
        assert gradient.shape == other.shape
        np.testing.assert_allclose(gradient, other, atol=2e-5, rtol=1e-4)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), min_size=1, max_size=3),
    vocabulary_size=st.integers(2, 5),
    logits_at_once=st.sampled_from([1, 30, 70, 10**6]),
    keep_logits=st.booleans(),
)
def test_any_lengths_and_pieces(rows, vocabulary_size, logits_at_once, keep_logits):
    rows = [(frames, labels if frames else 0) for frames, labels in rows]  # a finite loss
    frames, label_lengths = zip(*rows, strict=True)
    batch = make_batch(frames, label_lengths, vocabulary_size)
    (losses, found), (expected_losses, expected) = both(
        *batch, frames, label_lengths, logits_at_once=logits_at_once, keep_logits=keep_logits
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-6)
    for gradient, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, other, atol=3e-5)


def test_an_utterance_that_cannot_be_aligned_has_an_infinite_loss():
    (losses, _), _ = both(*make_batch([0, 2], [2, 1]), [0, 2], [2, 1])
    assert np.isinf(losses[0]) and np.isfinite(losses[1])


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
def test_garbage_in_padding_changes_nothing(garbage):
    frames, label_lengths = [4, 2], [2, 3]
    (encoded, predicted, *output), labels = make_batch(frames, label_lengths)
    clean, _ = both([encoded, predicted, *output], labels, frames, label_lengths)
    encoded, predicted, labels = encoded.numpy(), predicted.numpy(), labels.copy()
    for row, (num_frames, num_labels) in enumerate(zip(frames, label_lengths, strict=True)):
        encoded[row, num_frames:] = garbage
        predicted[row, num_labels + 1 :] = garbage
        labels[row, num_labels:] = 10**6
    dirty = [tf.constant(encoded), tf.constant(predicted), *output]
    weights = tf.range(1.0, 3.0)
    losses, gradients = losses_and_gradients(
        lambda e, p, *output: fused_transducer_loss(
            e, p, OutputLayer(*output), labels, logit_lengths=frames,
            label_lengths=label_lengths, logits_at_once=1,
        ),
        dirty,
        weights,
    )  # fmt: skip
    np.testing.assert_array_equal(losses, clean[0])
    for gradient, other in zip(gradients, clean[1], strict=True):
        np.testing.assert_array_equal(gradient, other)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 200.0), (1.0, -200.0), (60.0, 0.0)])
@pytest.mark.parametrize("keep_logits", [False, True])
def test_logits_far_from_zero(scale, shift, keep_logits):
    """The sum of their exponentials leaves the range of float32."""
    frames, label_lengths = [4, 2], [2, 3]
    (encoded, predicted, kernel, bias), labels = make_batch(frames, label_lengths)
    inputs = [encoded, predicted, scale * kernel, bias + shift]
    (losses, found), (expected_losses, expected) = both(
        inputs, labels, frames, label_lengths, keep_logits=keep_logits
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for gradient, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, other, atol=1e-3 * max(1, np.abs(other).max()))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_give_nan(value):
    (encoded, predicted, kernel, bias), labels = make_batch([3], [2])
    kernel = tf.tensor_scatter_nd_update(kernel, [[0, 4]], [value])
    (losses, _), _ = both([encoded, predicted, kernel, bias], labels, [3], [2])
    assert np.isnan(losses[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    """Only the sum of the projections and its tanh are in half precision, as in the plain loss."""
    frames, label_lengths = [6, 4], [2, 3]
    batch = make_batch(frames, label_lengths, dtype=dtype)
    (losses, found), (expected_losses, expected) = both(*batch, frames, label_lengths)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for gradient, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, other, atol=0.03 * np.abs(other).max())


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_the_loss_of_a_joint_network_is_that_of_its_logits(policy, kind):
    keras.utils.set_random_seed(1)
    joint = JointNetwork(7, 6, dtype=policy)
    joint.build((None, None, WIDTH), (None, None, WIDTH))
    joint.vocabulary_projection.bias.assign(np.linspace(-1, 1, 6))
    (encoded, predicted, *_), labels = make_batch([5, 3], [2, 4])
    found = []
    for function in (
        lambda: transducer_loss(joint(encoded, predicted), labels, [5, 3], [2, 4]),
        lambda: loss_of_pieces(
            encoded, predicted, joint, labels, logit_lengths=[5, 3], label_lengths=[2, 4], kind=kind
        ),
    ):
        with tf.GradientTape() as tape:
            tape.watch([encoded, predicted])
            losses = function()
        inputs = [encoded, predicted, *(v.value for v in joint.trainable_variables)]
        found.append([losses, *tape.gradient(losses, inputs)])
    for expected, ours in zip(*found, strict=True):
        tolerance = 1e-5 if policy == "float32" else 0.03
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours, expected, atol=tolerance * scale, rtol=tolerance)


@pytest.mark.parametrize("keep_logits", [False, True])
def test_utterances_may_weigh_less_than_nothing(keep_logits):
    """The gradient is linear in the upstream gradient, whatever its sign is."""
    frames, label_lengths = [4, 2, 3], [2, 3, 0]
    inputs, labels = make_batch(frames, label_lengths)
    found = []
    for weights in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [2.0, -3.0, 0.5]):
        _, gradients = losses_and_gradients(
            lambda e, p, *output: fused_transducer_loss(
                e, p, OutputLayer(*output), labels, logit_lengths=frames,
                label_lengths=label_lengths, logits_at_once=40, keep_logits=keep_logits,
            ),
            inputs,
            tf.constant(weights),
        )  # fmt: skip
        found.append(gradients)
    for one, two, three, mixed in zip(*found, strict=True):
        np.testing.assert_allclose(mixed, 2.0 * one - 3.0 * two + 0.5 * three, atol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_a_batch_without_labels_has_the_loss_of_its_blanks(rng, kind):
    joint = JointNetwork(7, 6)
    joint.build((None, None, WIDTH), (None, None, WIDTH))
    encoded = tf.constant(rng.normal(size=(2, 4, WIDTH)), tf.float32)
    predicted = tf.constant(rng.normal(size=(2, 1, WIDTH)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(encoded)
        losses = loss_of_pieces(
            encoded, predicted, joint, tf.zeros([2, 0], tf.int32), logit_lengths=[4, 3],
            label_lengths=[0, 0], kind=kind,
        )  # fmt: skip
    blanks = tf.nn.log_softmax(joint(encoded, predicted))[:, :, 0, 0].numpy()
    np.testing.assert_allclose(losses, [-blanks[0].sum(), -blanks[1, :3].sum()], rtol=1e-5)
    gradient = tape.gradient(losses, encoded).numpy()
    assert np.all(np.isfinite(gradient)) and np.any(gradient[1, :3]) and not np.any(gradient[1, 3])


@pytest.fixture
def products(monkeypatch):
    """Returns the list of the matrix products of the fused loss, whose factors are rounded to 11
    bits, as a GPU does in TF32."""
    matmul, made = tf.matmul, []

    def rounded(x):
        bits = tf.bitcast(x, tf.int32)
        return tf.bitcast(tf.bitwise.bitwise_and(bits + (1 << 12), -1 << 13), tf.float32)

    def product(x, y, **options):
        made.append(matmul(rounded(x), rounded(y), **options))
        return made[-1]

    monkeypatch.setattr(tf, "matmul", product)
    return made


def see_gpus(monkeypatch, number):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind] * number)


@pytest.mark.parametrize("keep_logits", [False, True])
def test_the_formulas_of_a_gpu_have_the_same_values_and_gradients(monkeypatch, keep_logits):
    frames, label_lengths = [5, 1, 3, 2, 4], [3, 2, 0, 4, 1]
    batch, found = make_batch(frames, label_lengths), []
    for gpus in (0, 1):
        see_gpus(monkeypatch, gpus)
        fused, plain = both(
            *batch, frames, label_lengths, logits_at_once=200, keep_logits=keep_logits
        )
        found.append(fused)
    for losses, gradients in found:
        np.testing.assert_allclose(losses, plain[0], rtol=1e-5)
        for gradient, expected in zip(gradients, plain[1], strict=True):
            np.testing.assert_allclose(gradient, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("keep_logits", [False, True])
def test_rounded_products_of_a_gpu_do_not_round_what_is_added(monkeypatch, products, keep_logits):
    """Without a kernel, the logits are the bias; their gradient is a product of rounded factors."""
    see_gpus(monkeypatch, 1)
    frames, label_lengths = [12, 9], [2, 3]
    (encoded, predicted, kernel, bias), labels = make_batch(frames, label_lengths, 40)
    inputs = [encoded, predicted, 0.0 * kernel, 3.0 * bias]
    (losses, found), (expected_losses, expected) = both(
        inputs, labels, frames, label_lengths, keep_logits=keep_logits
    )
    assert products
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    by_bias, expected = found[-1], expected[-1]
    np.testing.assert_allclose(by_bias, expected, atol=5e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("gpus", "kind", "pieces"), [(0, "plain", 2), (1, "plain", 1), (1, "fused", 4)]
)
def test_a_gpu_computes_logits_to_keep_in_larger_pieces(
    monkeypatch, rng, products, gpus, kind, pieces
):
    see_gpus(monkeypatch, gpus)
    joint = JointNetwork(WIDTH, 1000)
    joint.build((None, None, WIDTH), (None, None, WIDTH))
    encoded = tf.constant(rng.normal(size=(1, 1600, WIDTH)), tf.float32)
    predicted = tf.constant(rng.normal(size=(1, 4, WIDTH)), tf.float32)
    products.clear()
    loss_of_pieces(
        encoded, predicted, joint, tf.constant([[1, 2, 3]]), logit_lengths=[1600],
        label_lengths=[3], kind=kind,
    )  # fmt: skip
    logits = [x for x in products if x.shape[-1] == 1000]
    assert [x.shape[0] for x in logits] == [6400 // pieces] * pieces


@pytest.mark.parametrize("keep_logits", [False, True])
def test_nodes_that_likely_paths_do_not_visit_are_left_out_of_the_gradient(
    monkeypatch, keep_logits
):
    """The gradient is equal, though its products have the rows of a part of the nodes."""
    matmul, shapes = tf.matmul, []

    def product(*factors, **options):
        result = matmul(*factors, **options)
        shapes.append(tuple(result.shape))
        return result

    monkeypatch.setattr(tf, "matmul", product)
    frames, label_lengths, vocabulary_size = [60, 40], [30, 7], 20
    inputs, labels = make_batch(frames, label_lengths, vocabulary_size)
    (losses, found), (expected_losses, expected) = both(
        inputs, labels, frames, label_lengths, keep_logits=keep_logits, logits_at_once=4000
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for gradient, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, other, atol=1e-5 * np.abs(other).max())
    num_nodes = sum(t * (u + 1) for t, u in zip(frames, label_lengths, strict=True))
    by_hidden = sum(rows for rows, columns in shapes if WIDTH < columns < vocabulary_size)
    assert 0.1 * num_nodes < by_hidden < 0.7 * num_nodes
