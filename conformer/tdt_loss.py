"""Loss of token-and-duration transducers (TDT): sums the probabilities of all paths.

A path is at frame t = 0..T and has written u = 0..U labels. A label with duration d leads from
(t, u) to (t + d, u + 1), a blank with d > 0 to (t + d, u). A path starts at (0, 0) and ends with a
blank that leads to (T, U) exactly.
"""

from collections.abc import Sequence

import tensorflow as tf

from conformer.lattice import IMPOSSIBLE


def tdt_loss(
    logits, labels, logit_lengths, label_lengths, *, durations: Sequence[int], blank=0, sigma=0.0
):
    """Computes the negative log likelihood of the labels, summed over all paths.

    The sums are in float64. Values in padding, including infinities and NaN, do not influence the
    loss, and their gradient is zero. The loss of an utterance with 0 frames is 0 if it has no
    labels, and infinite if it has labels. It is also infinite if no sum of durations is the number
    of frames.

    Args:
        logits: `[B, T, U + 1, V + N]` unnormalized, any float dtype: those of the V symbols, then
            those of the N durations.
        labels: `[B, U]` integers without blank.
        logit_lengths: `[B]` valid frames.
        label_lengths: `[B]` valid labels.
        durations: N increasing numbers of frames, at least 0.
        blank: index of the blank symbol.
        sigma: subtracted from the log-probability of each symbol, which prefers paths with fewer
            symbols, and so longer durations.

    Returns:
        `[B]` float32 losses in nats.

    Raises:
        ValueError: the ranks of the inputs are not 4, 2, 1 and 1, or the durations are not as
            above.

    Source: Xu et al., Efficient sequence transduction by jointly predicting tokens and durations
    (2023), equations 5 to 9; sigma as in NeMo, `asr/losses/rnnt_pytorch.py`.
    """
    logits = tf.convert_to_tensor(logits)
    labels, frames, label_lengths = (
        tf.cast(x, tf.int32) for x in (labels, logit_lengths, label_lengths)
    )
    ranks = [x.shape.rank for x in (logits, labels, frames, label_lengths)]
    if ranks != [4, 2, 1, 1]:
        raise ValueError(
            "Expected logits [B,T,U+1,V+N], labels [B,U], logit_lengths [B], label_lengths [B]. "
            f"Received ranks {ranks}."
        )
    durations = tuple(durations)
    rising = sorted({*durations}) == [*durations]
    if not durations or not rising or durations[0] < 0 or durations[-1] == 0:
        raise ValueError(f"Expected increasing durations. Received: {durations}.")
    t = tf.range(tf.shape(logits)[1])[None, :, None, None]
    u = tf.range(tf.shape(logits)[2])[None, None, :, None]
    inside = (t < frames[:, None, None, None]) & (u <= label_lengths[:, None, None, None])
    logits = tf.cast(tf.where(inside, logits, tf.zeros([], logits.dtype)), tf.float64)
    labels = tf.pad(labels[:, : tf.shape(logits)[2] - 1], [[0, 0], [0, 1]])
    labels = tf.where(u[0, 0, :, 0][None] < label_lengths[:, None], labels, 0)
    blanks, written = _edges(logits, labels, len(durations), blank)
    blanks, written = blanks - sigma, written - sigma
    alpha = _forward(blanks, written, durations)
    arrived = []
    for number, duration in enumerate(durations):
        if duration > 0:
            end = tf.stack([frames - duration, label_lengths], axis=1)
            arrived.append(_arriving(alpha, blanks[:, number], end))
    likelihood = tf.reduce_logsumexp(tf.stack(arrived), axis=0)
    loss = tf.where(likelihood <= 0.5 * IMPOSSIBLE, float("inf"), tf.cast(-likelihood, tf.float32))
    return tf.where(frames > 0, loss, tf.where(label_lengths > 0, float("inf"), 0.0))


def _edges(logits, labels, num_durations, blank):
    """Returns log-probabilities of blanks and labels with each duration, `[T, N, B, U + 1]`.

    Args:
        logits: `[B, T, U + 1, V + N]` float64.
        labels: `[B, U + 1]` valid symbols; the last one of an utterance is not used.
        num_durations: number N of durations.
        blank: index of the blank.
    """
    symbols, lasting = logits[..., :-num_durations], logits[..., -num_durations:]
    lasting = tf.transpose(tf.nn.log_softmax(lasting), [1, 3, 0, 2])
    index = tf.broadcast_to(labels[:, None, :, None], tf.shape(symbols[..., :1]))
    normalizer = tf.reduce_logsumexp(symbols, axis=-1)
    written = tf.gather(symbols, index, batch_dims=3)[..., 0] - normalizer

    def with_durations(x):
        return tf.transpose(x, [1, 0, 2])[:, None] + lasting

    return with_durations(symbols[..., blank] - normalizer), with_durations(written)


def _forward(blanks, written, durations):
    """Returns the log of the sum over the paths to each node, `[T, B, U + 1]`.

    Nodes beyond the lengths of an utterance have values, too. No path leads back from them.
    """
    shape = tf.shape(blanks)
    frames, batch, states = shape[0], shape[2], shape[3]
    longest = durations[-1]
    moves = [(number, x) for number, x in enumerate(durations) if x > 0]
    impossible = tf.constant(IMPOSSIBLE, tf.float64)
    column = tf.fill([batch, 1], impossible)
    start = tf.fill([batch, states - 1], impossible)
    start = tf.concat([tf.zeros([batch, 1], tf.float64), start], axis=1)

    def stay(x, n):
        """Adds the labels of duration 0, which lead from u to u + 1 in the same frame."""
        if durations[0] > 0:
            return x
        total = tf.cumsum(written[n, 0], axis=1, exclusive=True)
        return total + tf.math.cumulative_logsumexp(x - total, axis=1)

    def step(n, history, collected):
        arriving = []
        for number, duration in moves:
            before = history[duration - 1]
            past = tf.maximum(n - duration, 0)
            arriving.append(before + blanks[past, number])
            moved = (before + written[past, number])[:, :-1]
            arriving.append(tf.concat([column, moved], axis=1))
        x = stay(tf.reduce_logsumexp(tf.stack(arriving), axis=0), n)
        x = tf.maximum(x, impossible)
        return n + 1, tf.concat([x[None], history[:-1]], axis=0), collected.write(n, x)

    first = stay(start, 0)
    history = tf.fill([longest, batch, states], impossible)
    history = tf.concat([first[None], history[1:]], axis=0)
    collected = tf.TensorArray(tf.float64, frames, element_shape=[None, None])
    _, _, collected = tf.while_loop(
        lambda n, *_: n < frames,
        step,
        (1, history, collected.write(0, first)),
        maximum_iterations=frames,
    )
    return collected.stack()


def _arriving(alpha, blanks, nodes):
    """Returns the log of the sum over the paths that end with a blank at nodes `[B, 2]`, `[B]`.

    Args:
        alpha: `[T, B, U + 1]`, the result of `_forward`.
        blanks: `[T, B, U + 1]` log-probabilities of the blank.
        nodes: frame and number of labels of each utterance; a negative frame has no path.
    """
    past, count = tf.maximum(nodes[:, 0], 0), nodes[:, 1]
    index = tf.stack([past, tf.range(tf.shape(nodes)[0]), count], axis=1)
    found = tf.gather_nd(alpha + blanks, index)
    return tf.where(nodes[:, 0] >= 0, found, tf.constant(IMPOSSIBLE, tf.float64))
