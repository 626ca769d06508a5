"""Hypotheses of beam searches of transducers as TensorFlow tensors: merging, ranking, networks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

NEVER = np.float64(-np.inf)  # score of a place without a hypothesis
_MIXING = -7046029254386353131  # 2^64 divided by the golden ratio, as a signed number


class BeamHypotheses(NamedTuple):
    """Hypotheses of a beam search, best first.

    Attributes:
        token_ids: `[B, W, U]` int32, padded with blank.
        token_lengths: `[B, W]` int32.
        scores: `[B, W]` float32, what the hypotheses are sorted by; -inf where a beam has fewer.
        log_probability: `[B, W]` float32, log-probability of all paths with these tokens, in nats.
    """

    token_ids: tf.Tensor
    token_lengths: tf.Tensor
    scores: tf.Tensor
    log_probability: tf.Tensor


class Beams(NamedTuple):
    """Hypotheses of a batch, `[B, W, ...]`. A score of `NEVER` marks a place without one.

    Attributes:
        scores: `[B, W]` float64, what ranks hypotheses.
        log_probabilities: `[B, W]` float64.
        hashes: `[B, W]` int64, hash of the tokens.
        lengths: `[B, W]` int32, number of tokens.
        origins: `[B, W]` int32, number of the hypothesis at the start of a frame that became this
            one.
        emitted: `[B, W, M]` int32, symbols since then, -1 behind the last one.
        unread: `[B, W]` int32, symbol that the prediction network has not read, or -1.
        predicted: `[B, W, P]` output of the prediction network before `unread`.
        states: `[B, W, ...]` its states.
    """

    scores: tf.Tensor
    log_probabilities: tf.Tensor
    hashes: tf.Tensor
    lengths: tf.Tensor
    origins: tf.Tensor
    emitted: tf.Tensor
    unread: tf.Tensor
    predicted: tf.Tensor
    states: tf.Tensor

    def take(self, places: tf.Tensor) -> "Beams":
        """Returns the hypotheses at places `[B, N]`."""
        return Beams(*(tf.gather(x, places, batch_dims=1) for x in self))

    def best(self, number: int) -> "Beams":
        """Returns the hypotheses with the highest scores, best first."""
        return self.take(tf.math.top_k(self.scores, number).indices)

    def begin(self, first: tf.Tensor | int) -> "Beams":
        """Returns the hypotheses at the start of a frame, numbered from `first`."""
        numbers = first + tf.range(self.scores.shape[1])
        return self._replace(
            origins=tf.zeros_like(self.origins) + numbers, emitted=-tf.ones_like(self.emitted)
        )

    def with_symbols(self, symbols: tf.Tensor, number: tf.Tensor) -> "Beams":
        """Adds a symbol to each hypothesis; the scores stay.

        Args:
            symbols: `[B, W]`.
            number: scalar, number of the symbol in its frame, from 0.
        """
        hashes = tf.bitwise.bitwise_xor(self.hashes, tf.cast(symbols + 1, tf.int64)) * _MIXING
        is_place = tf.range(self.emitted.shape[2]) == number
        return self._replace(
            hashes=tf.bitwise.bitwise_xor(hashes, tf.bitwise.right_shift(hashes, 29)),
            lengths=self.lengths + 1,
            emitted=tf.where(is_place, symbols[:, :, None], self.emitted),
            unread=symbols,
        )


def where(condition: tf.Tensor, ones: Beams, others: Beams) -> Beams:
    """Chooses between hypotheses; `condition` has the shape of their first dimensions."""
    found = []
    for one, other in zip(ones, others, strict=True):
        same_rank = condition
        for _ in range(one.shape.rank - condition.shape.rank):
            same_rank = same_rank[..., None]
        found.append(tf.where(same_rank, one, other))
    return Beams(*found)


def merged(ended: Beams, more: Beams, width: int) -> Beams:
    """Adds the probabilities of hypotheses with the same tokens, and returns the best ones.

    Args:
        ended: hypotheses with different tokens.
        more: hypotheses with different tokens.
        width: number of hypotheses to return, at most that of both together.
    """
    is_same = ended.hashes[:, :, None] == more.hashes[:, None]
    is_same &= ended.lengths[:, :, None] == more.lengths[:, None]
    is_same &= (ended.scores > NEVER)[:, :, None] & (more.scores > NEVER)[:, None]
    partner = tf.argmax(tf.cast(is_same, tf.int32), axis=2, output_type=tf.int32)
    has_partner = tf.reduce_any(is_same, axis=2)
    same = more.take(partner)
    is_better = has_partner & (same.scores > ended.scores)
    added = [tf.where(has_partner, x, NEVER) for x in (same.scores, same.log_probabilities)]
    kept = where(is_better, same, ended)._replace(
        scores=_sum_of_logs(ended.scores, added[0]),
        log_probabilities=_sum_of_logs(ended.log_probabilities, added[1]),
    )
    left = more._replace(scores=tf.where(tf.reduce_any(is_same, axis=1), NEVER, more.scores))
    both = Beams(*(tf.concat(pair, 1) for pair in zip(kept, left, strict=True)))
    return both.best(width)


def _sum_of_logs(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    most, least = tf.maximum(one, other), tf.minimum(one, other)
    is_alone = least == NEVER
    difference = tf.where(is_alone, tf.zeros_like(most), least - most)
    return tf.where(is_alone, most, most + tf.math.log1p(tf.exp(difference)))


class Networks:
    """The prediction and the joint network, run on hypotheses.

    Args:
        predict: `(tokens [N, 1], states) -> (predicted [N, 1, P], states)`.
        join: `(encoded [N, 1, D], predicted [N, 1, P]) -> logits [N, 1, 1, V]`.
    """

    def __init__(self, predict: Callable, join: Callable):
        self._predict, self._join = predict, join

    def start(self, states: tf.Tensor, size: int, max_symbols: int, *, blank: int) -> Beams:
        """Returns one hypothesis without tokens for each row, and free places.

        Args:
            states: `[B, ...]` states of the prediction network before the first symbol.
            size: number of hypotheses and free places of a row.
            max_symbols: largest number of symbols of a frame.
            blank: index of the blank symbol.
        """
        batch = tf.shape(states)[0]
        predicted, states = self._predict(tf.fill([batch, 1], blank), states)
        shape = [batch, size]
        scores = tf.tile(tf.where(tf.range(size) == 0, np.float64(0.0), NEVER)[None], [batch, 1])
        return Beams(
            scores=scores,
            log_probabilities=scores,
            hashes=tf.zeros(shape, tf.int64),
            lengths=tf.zeros(shape, tf.int32),
            origins=tf.fill(shape, -1),
            emitted=tf.fill([*shape, max_symbols], -1),
            unread=tf.fill(shape, -1),
            predicted=tf.repeat(predicted[:, :1], size, axis=1),
            states=tf.repeat(states[:, None], size, axis=1),
        )

    def logits(self, encoded: tf.Tensor, current: Beams) -> tf.Tensor:
        """Returns the logits `[B, W, V]` of hypotheses at frames `[B, D]`."""
        rows, width = tf.shape(current.scores)[0], current.scores.shape[1]
        frames = tf.repeat(encoded, width, axis=0)[:, None]
        predicted = tf.reshape(current.predicted, [-1, 1, current.predicted.shape[-1]])
        logits = tf.cast(self._join(frames, predicted), tf.float32)
        return tf.reshape(logits, [rows, width, logits.shape[-1]])

    def read(self, beams: Beams) -> Beams:
        """Runs the prediction network on symbols that it has not read."""
        is_unread = (beams.unread >= 0) & (beams.scores > NEVER)

        def read():
            tokens = tf.reshape(tf.maximum(beams.unread, 0), [-1, 1])
            states = tf.reshape(beams.states, [-1, *beams.states.shape[2:]])
            predicted, states = self._predict(tokens, states)
            after = beams._replace(
                predicted=tf.reshape(predicted, tf.shape(beams.predicted)),
                states=tf.reshape(states, tf.shape(beams.states)),
            )
            return where(is_unread, after, beams)

        found = tf.cond(tf.reduce_any(is_unread), read, lambda: beams)
        return found._replace(unread=-tf.ones_like(found.unread))


def ranked(beams: Beams, width: int, *, norm_score: bool) -> tuple[Beams, tf.Tensor]:
    """Returns the best finished hypotheses, best first, and their scores `[B, W]`.

    Args:
        beams: finished hypotheses with different tokens.
        width: number of hypotheses W to return.
        norm_score: divides the scores by the number of tokens.
    """
    scores = beams.scores
    if norm_score:
        scores /= tf.cast(tf.maximum(beams.lengths, 1), tf.float64)
    scores, places = tf.math.top_k(scores, width)
    return beams.take(places), scores


def collected(
    best: Beams, scores: tf.Tensor, symbols: tf.TensorArray, *, blank: int
) -> BeamHypotheses:
    """Returns finished hypotheses with their tokens.

    Args:
        best: hypotheses, best first.
        scores: `[B, W]` their scores.
        symbols: `[N]` tensors `[B, W, M]` of symbols in their order, -1 for none; N is at least 1.
        blank: symbol with which tokens are padded.
    """
    batch, width = tf.shape(scores)[0], scores.shape[1]
    path = tf.transpose(symbols.stack(), [1, 2, 0, 3])
    path = tf.reshape(path, [batch * width, tf.shape(path)[2] * path.shape[3]])
    token_ids = tf.ragged.boolean_mask(path, path >= 0).to_tensor(blank)
    return BeamHypotheses(
        tf.reshape(token_ids, [batch, width, tf.shape(token_ids)[1]]),
        best.lengths,
        tf.cast(scores, tf.float32),
        tf.cast(best.log_probabilities, tf.float32),
    )
