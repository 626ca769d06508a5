"""Transducer loss in TensorFlow, with a custom gradient, computed in float32."""

import tensorflow as tf

from conformer.edges import Edges, next_labels
from conformer.fused_loss import LOGITS_AT_ONCE, OutputLayer, fused_transducer_loss
from conformer.lattice import Lattice


def transducer_loss(logits, labels, logit_lengths, label_lengths, *, blank=0):
    """Computes the negative log likelihood of the labels, summed over all alignments.

    Values in padding, including infinities and NaN, do not influence the loss, and their gradient
    is zero. The loss of an utterance with 0 frames is 0 if it has no labels, and infinite if it
    has labels.

    Args:
        logits: `[B, T, U + 1, V]` unnormalized, any float dtype.
        labels: `[B, U]` integers without blank.
        logit_lengths: `[B]` valid frames.
        label_lengths: `[B]` valid labels.
        blank: index of the blank symbol.

    Returns:
        `[B]` float32 losses in nats.

    Raises:
        ValueError: the ranks of the inputs are not 4, 2, 1 and 1, or blank is not in 0..V - 1.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), sections 2.4, 2.5.
    """
    logits = tf.convert_to_tensor(logits)
    labels, logit_lengths, label_lengths = (
        tf.cast(x, tf.int32) for x in (labels, logit_lengths, label_lengths)
    )
    ranks = [x.shape.rank for x in (logits, labels, logit_lengths, label_lengths)]
    if ranks != [4, 2, 1, 1]:
        raise ValueError(
            "Expected logits [B,T,U+1,V], labels [B,U], logit_lengths [B], label_lengths [B]. "
            f"Received ranks {ranks}."
        )
    if not 0 <= blank < (logits.shape[-1] or blank + 1):
        raise ValueError(f"Expected 0 <= blank < {logits.shape[-1]}. Received: {blank}.")

    @tf.custom_gradient
    def loss_of(logits):
        following = next_labels(labels, label_lengths, tf.shape(logits)[2])
        edges = Edges(tf.cast(logits, tf.float32), following[:, None], blank)
        lattice = Lattice(edges.blank, edges.label, logit_lengths, label_lengths)

        def gradient(upstream):
            return tf.cast(edges.gradient(lattice, upstream), logits.dtype)

        return lattice.loss, gradient

    return loss_of(logits)


def loss_of_pieces(
    encoded, predicted, joint, labels, *, logit_lengths, label_lengths, blank=0, kind="plain"
):
    """Computes the transducer loss from encoder and prediction outputs; see `transducer_loss`.

    Args:
        encoded: `[B, T, D]` encoder frames.
        predicted: `[B, U + 1, P]` outputs of the prediction network.
        joint: a `conformer.joint.JointNetwork`.
        labels: `[B, U]` integers without blank.
        logit_lengths: `[B]` valid frames.
        label_lengths: `[B]` valid labels.
        blank: index of the blank symbol.
        kind: `"plain"` keeps all logits `[B, T, U + 1, V]` for the gradient, `"fused"` computes
            them again, a few frames at a time; see `conformer.fused_loss`. Values and gradients
            are equal. `"fused"` requires a joint network with tanh.

    Returns:
        `[B]` float32 losses in nats.
    """
    if kind == "fused" or joint.activation == "tanh":
        # A GPU computes logits that are kept at once: pieces would run one after the other.
        at_once = kind == "plain" and tf.config.get_visible_devices("GPU")
        return fused_transducer_loss(
            joint.project_encoded(encoded),
            joint.project_predicted(predicted),
            OutputLayer(*joint.output_layer),
            labels,
            logit_lengths=logit_lengths,
            label_lengths=label_lengths,
            blank=blank,
            keep_logits=kind == "plain",
            logits_at_once=tf.int32.max if at_once else LOGITS_AT_ONCE,
        )
    logits = joint(encoded, predicted)
    return transducer_loss(logits, labels, logit_lengths, label_lengths, blank=blank)
