"""Pruned transducer loss: the joint network runs only at the likely states of each frame.

A simple joint network, whose logits are a sum of a term of the frame and a term of the state, gives
the probability of every edge without a tensor of all logits. From these probabilities, S states are
chosen for each frame, and the transducer loss is computed on the lattice of these states.

Source: Kuang et al., Pruned RNN-T for fast, memory-efficient ASR training (2022).
"""

from typing import NamedTuple

import tensorflow as tf

from conformer.edges import Edges, next_labels
from conformer.lattice import Lattice

# Smallest sum over the vocabulary of the simple joint network, as a share of its largest possible
# value. It keeps the logarithm finite where frame and state have no likely symbol in common.
_SMALLEST_SUM = 1e-37


class PrunedLosses(NamedTuple):
    """Losses of the utterances of a batch, in nats.

    Attributes:
        simple: `[B]` float32 loss of the simple joint network, on all states.
        pruned: `[B]` float32 loss of the joint network, on the chosen states.
    """

    simple: tf.Tensor
    pruned: tf.Tensor


def pruned_transducer_loss(
    encoded,
    predicted,
    joints,
    labels,
    *,
    logit_lengths,
    label_lengths,
    s_range,
    blank=0,
) -> PrunedLosses:
    """Computes the losses of the simple and of the full joint network.

    If `s_range` is at least U + 1, no state is left out, and `pruned` is the exact loss. Values in
    padding do not influence the losses, and their gradient is zero. An utterance with more than
    `frames * (s_range - 1)` labels has no path through the chosen states; its loss is infinite.

    Args:
        encoded: `[B, T, D]` encoder frames.
        predicted: `[B, U + 1, P]` outputs of the prediction network.
        joints: a `conformer.joint.JointNetwork` and a `conformer.joint.SimpleJoint`.
        labels: `[B, U]` integers without blank.
        logit_lengths: `[B]` valid frames.
        label_lengths: `[B]` valid labels.
        s_range: number of states S of each frame, at least 2.
        blank: index of the blank symbol.

    Returns:
        The losses; their weighted sum is what is trained.
    """
    joint, simple_joint = joints
    labels, frames, label_lengths = (
        tf.cast(x, tf.int32) for x in (labels, logit_lengths, label_lengths)
    )
    num_states = tf.shape(predicted)[1]
    encoded = _valid(encoded, frames)
    predicted = _valid(predicted, label_lengths + 1)
    following = next_labels(labels, label_lengths, num_states)
    simple, blanks, label_edges = _simple_loss(
        *simple_joint(encoded, predicted), following, (frames, label_lengths), blank=blank
    )
    width = tf.minimum(s_range, num_states)
    first = first_states(blanks, label_edges, (frames, label_lengths), width)
    states = first[:, :, None] + tf.range(width)
    chosen = tf.gather(joint.project_predicted(predicted), states, batch_dims=1)
    logits = joint.logits(joint.project_encoded(encoded)[:, :, None] + chosen)
    following = tf.gather(following, states, batch_dims=1)

    @tf.custom_gradient
    def loss_of(logits):
        edges = Edges(logits, following, blank)
        lattice = Lattice(edges.blank, edges.label, frames, label_lengths, first_states=first)
        return lattice.loss, lambda upstream: edges.gradient(lattice, upstream)

    return PrunedLosses(simple, loss_of(logits))


def first_states(blanks, labels, lengths, width):
    """Chooses the states of each frame.

    The states of a frame are those that keep the largest probability: the sum of their blank edges,
    minus the label edge that enters from the state below. Then the first states are changed so that
    every frame continues the one before: they never decrease, grow by at most `width - 1`, begin
    with the first state and end with the last one.

    Args:
        blanks: `[B, T, U + 1]` probabilities of the blank edges.
        labels: `[B, T, U + 1]` probabilities of the label edges.
        lengths: `[B]` int32 valid frames and `[B]` int32 valid labels.
        width: scalar number of states of each frame, from 1 to U + 1.

    Returns:
        `[B, T]` int32 first state of each frame.

    Source: Kuang et al. (2022), section 3.3.
    """
    frames, label_lengths = lengths
    t = tf.range(tf.shape(blanks)[1])[None]
    num_choices = tf.shape(blanks)[2] - width + 1
    total = tf.pad(tf.cumsum(blanks, axis=2), [[0, 0], [0, 0], [1, 0]])
    inside = total[:, :, width:] - total[:, :, :num_choices]
    entering = tf.pad(labels, [[0, 0], [0, 0], [1, 0]])[:, :, :num_choices]
    first = tf.argmax(inside - entering, axis=2, output_type=tf.int32)
    last = tf.maximum(label_lengths + 1 - width, 0)[:, None]
    first = tf.where(t >= frames[:, None] - 1, last, tf.minimum(first, last))
    first = -_largest_ahead(-first)
    rise = (width - 1) * t
    return tf.minimum(rise + _largest_ahead(first - rise), rise)


def scales(num_updates, simple_scale, warmup_steps):
    """Returns the weights of the simple and of the pruned loss.

    During the warm-up they go linearly from 1 to `simple_scale` and from 0.1 to 1.

    Args:
        num_updates: scalar integer, number of updates so far.
        simple_scale: weight of the simple loss after the warm-up.
        warmup_steps: length of the warm-up in updates; 0 for none.
    """
    share = tf.minimum(tf.cast(num_updates, tf.float32) / max(warmup_steps, 1), 1.0)
    share = share if warmup_steps else tf.ones([])
    return 1.0 - share * (1.0 - simple_scale), 0.1 + share * 0.9


def _valid(x, lengths):
    """Sets the padding of `[B, N, D]` to zero."""
    inside = tf.sequence_mask(lengths, tf.shape(x)[1])[..., None]
    return tf.where(inside, x, tf.zeros([], x.dtype))


def _largest_ahead(x):
    """Returns the maximum over this and all later frames of `[B, T]`."""
    num_frames = tf.shape(x)[1]

    def step(distance, x):
        ahead = tf.pad(x[:, distance:], [[0, 0], [0, distance]], constant_values=x.dtype.min)
        return 2 * distance, tf.maximum(x, tf.ensure_shape(ahead, x.shape))

    x = tf.ensure_shape(x, [None, None])
    return tf.while_loop(lambda distance, _: distance < num_frames, step, (1, x))[1]


def _simple_loss(encoded, predicted, following, lengths, *, blank):
    """Computes the transducer loss of logits that are a sum, and the probabilities of the edges.

    The normalizers are one product: `sum_v exp(e_v + p_v) = exp(e) @ exp(p)`.

    Args:
        encoded: `[B, T, V]` float32 terms of the frames.
        predicted: `[B, U + 1, V]` float32 terms of the states.
        following: `[B, U + 1]` next label of each state.
        lengths: `[B]` int32 valid frames and `[B]` int32 valid labels.
        blank: index of the blank symbol.

    Returns:
        `[B]` losses, and `[B, T, U + 1]` probabilities of the blank edges and of the label edges,
        which have no gradient.
    """
    vocabulary_size = tf.shape(encoded)[2]

    @tf.custom_gradient
    def loss_of(encoded, predicted):
        largest = [tf.reduce_max(x, axis=-1, keepdims=True) for x in (encoded, predicted)]
        of_frame, of_state = tf.exp(encoded - largest[0]), tf.exp(predicted - largest[1])
        total = tf.matmul(of_frame, of_state, transpose_b=True)
        total = tf.where(total < _SMALLEST_SUM, _SMALLEST_SUM, total)
        normalizer = tf.math.log(total) + largest[0] + tf.transpose(largest[1], [0, 2, 1])
        at_blank = encoded[:, :, blank, None] + predicted[:, None, :, blank]
        at_label = tf.gather(encoded, following, axis=2, batch_dims=1)
        at_label += tf.gather(predicted, following, batch_dims=2)[:, None]
        lattice = Lattice(at_blank - normalizer, at_label - normalizer, *lengths)

        def gradient(upstream, *_):
            blanks, labels = lattice.weighted_occupancies(upstream)
            share = (blanks + labels) / total
            # Symbols of the edges that are taken: blank and the next label of each state.
            symbols = tf.one_hot(following, vocabulary_size)
            blank_symbol = tf.one_hot(blank, vocabulary_size)
            by_encoded = of_frame * tf.matmul(share, of_state)
            by_encoded -= tf.matmul(labels, symbols)
            by_encoded -= tf.reduce_sum(blanks, axis=2, keepdims=True) * blank_symbol
            by_predicted = of_state * tf.matmul(share, of_frame, transpose_a=True)
            by_predicted -= tf.reduce_sum(labels, axis=1)[..., None] * symbols
            by_predicted -= tf.reduce_sum(blanks, axis=1)[..., None] * blank_symbol
            return by_encoded, by_predicted

        return (lattice.loss, *lattice.occupancies()), gradient

    losses, blanks, labels = loss_of(encoded, predicted)
    return losses, tf.stop_gradient(blanks), tf.stop_gradient(labels)
