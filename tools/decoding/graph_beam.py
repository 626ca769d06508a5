"""Transducer beam search as TensorFlow operations, for SavedModels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tools.decoding.graph import Hypotheses, detokenize

_MIXING = -7046029254386353131  # 2^64 divided by the golden ratio, as a signed number
_NEVER = np.float64(-np.inf)


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


class _Beams(NamedTuple):
    """Hypotheses of a batch, `[B, W, ...]`. A score of -inf marks a place without one.

    `origins` is the place at the start of the frame, and `emitted` `[B, W, M]` holds the symbols of
    the frame, -1 behind the last one. `unread` is a symbol that the prediction network has not
    read, or -1.
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

    def take(self, places: tf.Tensor) -> "_Beams":
        """Returns the hypotheses at places `[B, N]`."""
        return _Beams(*(tf.gather(x, places, batch_dims=1) for x in self))


def _sum_of_logs(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    most, least = tf.maximum(one, other), tf.minimum(one, other)
    is_alone = least == _NEVER
    difference = tf.where(is_alone, tf.zeros_like(most), least - most)
    return tf.where(is_alone, most, most + tf.math.log1p(tf.exp(difference)))


def _where(condition: tf.Tensor, ones: _Beams, others: _Beams) -> _Beams:
    """Chooses between hypotheses; `condition` has the shape of their first dimensions."""
    found = []
    for one, other in zip(ones, others, strict=True):
        same_rank = condition
        for _ in range(one.shape.rank - condition.shape.rank):
            same_rank = same_rank[..., None]
        found.append(tf.where(same_rank, one, other))
    return _Beams(*found)


def _merged(ended: _Beams, more: _Beams, width: int) -> _Beams:
    """Adds the probabilities of hypotheses with the same tokens, and returns the best ones."""
    is_same = ended.hashes[:, :, None] == more.hashes[:, None]
    is_same &= ended.lengths[:, :, None] == more.lengths[:, None]
    is_same &= (ended.scores > _NEVER)[:, :, None] & (more.scores > _NEVER)[:, None]
    partner = tf.argmax(tf.cast(is_same, tf.int32), axis=2, output_type=tf.int32)
    has_partner = tf.reduce_any(is_same, axis=2)
    same = more.take(partner)
    is_better = has_partner & (same.scores > ended.scores)
    added = [tf.where(has_partner, x, _NEVER) for x in (same.scores, same.log_probabilities)]
    kept = _where(is_better, same, ended)._replace(
        scores=_sum_of_logs(ended.scores, added[0]),
        log_probabilities=_sum_of_logs(ended.log_probabilities, added[1]),
    )
    left = more._replace(scores=tf.where(tf.reduce_any(is_same, axis=1), _NEVER, more.scores))
    both = _Beams(*(tf.concat(pair, 1) for pair in zip(kept, left, strict=True)))
    return both.take(tf.math.top_k(both.scores, width).indices)


class _Search:
    """The steps of a search; see `beam_decode`."""

    def __init__(self, predict, join, *, width, max_symbols, penalty, blank, beam_prune):
        self._predict, self._join, self._width = predict, join, width
        self._max_symbols, self._penalty, self._blank = max_symbols, penalty, blank
        self._beam_prune = beam_prune

    def start(self, batch: tf.Tensor, states: tf.Tensor) -> _Beams:
        """Returns one hypothesis without tokens for each row, and free places."""
        tokens = tf.fill([batch, 1], self._blank)
        predicted, states = self._predict(tokens, states)
        shape = [batch, self._width]
        scores = tf.tile(
            tf.where(tf.range(self._width) == 0, np.float64(0.0), _NEVER)[None], [batch, 1]
        )

        def repeated(x):
            return tf.repeat(x[:, None], self._width, axis=1)

        return self._at_start(
            _Beams(
                scores=scores,
                log_probabilities=scores,
                hashes=tf.zeros(shape, tf.int64),
                lengths=tf.zeros(shape, tf.int32),
                origins=tf.zeros(shape, tf.int32),
                emitted=tf.fill([*shape, self._max_symbols], -1),
                unread=tf.fill(shape, -1),
                predicted=repeated(predicted[:, 0]),
                states=repeated(states),
            )
        )

    def _at_start(self, beams: _Beams) -> _Beams:
        """Returns hypotheses at the start of a frame."""
        return beams._replace(
            origins=tf.zeros_like(beams.origins) + tf.range(self._width),
            emitted=-tf.ones_like(beams.emitted),
        )

    def frame(self, beams: _Beams, encoded: tf.Tensor, is_active: tf.Tensor) -> _Beams:
        """Decodes one frame `[B, D]`; rows that are not active stay as they are."""
        beams = self._at_start(beams)
        ended = beams._replace(scores=tf.zeros_like(beams.scores) + _NEVER)

        def step(number, current, ended):
            logits = self._logits(encoded, current)
            sums = tf.reduce_logsumexp(logits, axis=-1, keepdims=True)
            scores = tf.cast(logits - sums, tf.float64)
            blanks = scores[:, :, self._blank]
            with_blank = current._replace(
                scores=current.scores + blanks - self._penalty,
                log_probabilities=current.log_probabilities + blanks,
            )
            ended = _merged(ended, with_blank, self._width)
            longer = self._extended(number, current, scores, ended)
            is_last = number + 1 == self._max_symbols
            ended, longer = tf.cond(
                is_last,
                lambda: (_merged(ended, longer, self._width), longer),
                lambda: (ended, self._read(longer)),
            )
            return number + 1, longer, ended

        def goes_on(number, current, _):
            return (number < self._max_symbols) & tf.reduce_any(current.scores > _NEVER)

        current = beams._replace(scores=tf.where(is_active[:, None], beams.scores, _NEVER))
        _, _, ended = tf.while_loop(goes_on, step, (0, current, ended))
        return _where(is_active, self._read(ended), beams)

    def _logits(self, encoded: tf.Tensor, current: _Beams) -> tf.Tensor:
        shape = tf.shape(current.scores)
        frames = tf.repeat(encoded, self._width, axis=0)[:, None]
        predicted = tf.reshape(current.predicted, [-1, 1, current.predicted.shape[-1]])
        logits = tf.cast(self._join(frames, predicted), tf.float32)
        return tf.reshape(logits, [shape[0], self._width, logits.shape[-1]])

    def _extended(
        self, number: tf.Tensor, current: _Beams, scores: tf.Tensor, ended: _Beams
    ) -> _Beams:
        """Returns the best hypotheses with another symbol that may still be among the best."""
        size = scores.shape[-1]
        least = tf.reduce_max(ended.scores, axis=1) - self._beam_prune
        least = tf.maximum(least, tf.reduce_min(ended.scores, axis=1))
        totals = current.scores[:, :, None] + scores
        is_close = totals > least[:, None, None]
        is_close &= tf.range(size) != self._blank
        totals = tf.where(is_close, totals, _NEVER)
        flat = tf.reshape(totals, [tf.shape(totals)[0], self._width * size])
        best, places = tf.math.top_k(flat, self._width)
        parents, symbols = places // size, places % size
        gains = tf.gather(tf.reshape(scores, tf.shape(flat)), places, batch_dims=1)
        found = current.take(parents)
        hashes = tf.bitwise.bitwise_xor(found.hashes, tf.cast(symbols + 1, tf.int64)) * _MIXING
        hashes = tf.bitwise.bitwise_xor(hashes, tf.bitwise.right_shift(hashes, 29))
        is_place = tf.range(self._max_symbols) == number
        return found._replace(
            scores=best,
            log_probabilities=found.log_probabilities + gains,
            hashes=hashes,
            lengths=found.lengths + 1,
            emitted=tf.where(is_place, symbols[:, :, None], found.emitted),
            unread=symbols,
        )

    def _read(self, beams: _Beams) -> _Beams:
        """Runs the prediction network on symbols that it has not read."""
        is_unread = (beams.unread >= 0) & (beams.scores > _NEVER)

        def read():
            tokens = tf.reshape(tf.maximum(beams.unread, 0), [-1, 1])
            states = tf.reshape(beams.states, [-1, *beams.states.shape[2:]])
            predicted, states = self._predict(tokens, states)
            after = beams._replace(
                predicted=tf.reshape(predicted, tf.shape(beams.predicted)),
                states=tf.reshape(states, tf.shape(beams.states)),
            )
            return _where(is_unread, after, beams)

        found = tf.cond(tf.reduce_any(is_unread), read, lambda: beams)
        return found._replace(unread=-tf.ones_like(found.unread))


def beam_decode(
    encoded: tf.Tensor,
    encoded_lengths: tf.Tensor,
    predict: Callable,
    join: Callable,
    *,
    initial_states: tf.Tensor,
    width: int,
    max_symbols_per_frame: int = 5,
    blank_penalty: float = 0.0,
    blank: int = 0,
    norm_score: bool = False,
    beam_prune: float = 5.0,
) -> BeamHypotheses:
    """Searches a batch with a beam; see `tools.decoding.transducer_beam.TransducerBeamSearch`.

    Args:
        encoded: `[B, T, D]` encoder output.
        encoded_lengths: `[B]` valid frames.
        predict: prediction network, `(tokens [N, 1], states) -> (predicted [N, 1, P], states)`.
        join: joint network, `(encoded [N, 1, D], predicted [N, 1, P]) -> logits [N, 1, 1, V]`.
        initial_states: `[B, ...]` states of the prediction network before the first symbol.
        width: number of hypotheses W that are kept, at least 1.
        max_symbols_per_frame: number of symbols after which the search moves to the next frame
            without a blank.
        blank_penalty: subtracted from the log probability of the blank in the scores.
        blank: index of the blank symbol.
        norm_score: divides the scores of finished hypotheses by their number of tokens.
        beam_prune: hypotheses that are so much worse than the best one of the frame emit no symbol.

    Returns:
        The hypotheses with different tokens, best first.
    """
    search = _Search(
        predict,
        join,
        width=width,
        max_symbols=max_symbols_per_frame,
        penalty=tf.constant(blank_penalty, tf.float64),
        blank=blank,
        beam_prune=tf.constant(beam_prune, tf.float64),
    )
    batch = tf.shape(encoded)[0]
    frames = tf.reduce_max(tf.concat([encoded_lengths, [0]], 0))
    beams = search.start(batch, initial_states)
    origins = tf.TensorArray(tf.int32, frames, element_shape=beams.origins.shape)
    emitted = tf.TensorArray(tf.int32, frames, element_shape=beams.emitted.shape)

    def decode(frame, beams, origins, emitted):
        beams = search.frame(beams, encoded[:, frame], frame < encoded_lengths)
        origins = origins.write(frame, beams.origins)
        return frame + 1, beams, origins, emitted.write(frame, beams.emitted)

    _, beams, origins, emitted = tf.while_loop(
        lambda frame, *_: frame < frames, decode, (0, beams, origins, emitted)
    )
    scores = beams.scores
    if norm_score:
        scores /= tf.cast(tf.maximum(beams.lengths, 1), tf.float64)
    order = tf.math.top_k(scores, width).indices
    path = tf.TensorArray(tf.int32, frames, element_shape=beams.emitted.shape)

    def go_back(frame, places, path):
        path = path.write(frame, tf.gather(emitted.read(frame), places, batch_dims=1))
        return frame - 1, tf.gather(origins.read(frame), places, batch_dims=1), path

    _, _, path = tf.while_loop(lambda frame, *_: frame >= 0, go_back, (frames - 1, order, path))
    symbols = tf.reshape(path.stack(), [frames, batch, width, max_symbols_per_frame])
    symbols = tf.reshape(tf.transpose(symbols, [1, 2, 0, 3]), [batch * width, -1])
    tokens = tf.ragged.boolean_mask(symbols, symbols >= 0)
    token_ids = tokens.to_tensor(blank)
    best = beams.take(order)
    return BeamHypotheses(
        tf.reshape(token_ids, [batch, width, tf.shape(token_ids)[1]]),
        best.lengths,
        tf.cast(tf.gather(scores, order, batch_dims=1), tf.float32),
        tf.cast(best.log_probabilities, tf.float32),
    )


def different_texts(found: BeamHypotheses, surfaces: Sequence[str]) -> dict[str, tf.Tensor]:
    """Converts hypotheses to texts and leaves out those whose text has a better hypothesis.

    Args:
        found: hypotheses, best first.
        surfaces: `[V]` text of each token.

    Returns:
        `beam_texts` `[B, W]` strings with single spaces between words, `beam_scores` `[B, W]`,
        `token_ids` `[B, W, U]`, `token_lengths` `[B, W]` and `log_probability` `[B, W]`. Places
        behind the last text have an empty text, no tokens and the score -inf.
    """
    ids, lengths, scores, log_probability = found
    width = scores.shape[1]
    flat = Hypotheses(
        tf.reshape(ids, [tf.size(lengths), tf.shape(ids)[2]]),
        tf.reshape(lengths, [-1]),
        tf.reshape(log_probability, [-1]),
    )
    texts = tf.reshape(detokenize(flat, surfaces), [-1, width])
    texts = tf.strings.regex_replace(texts, r"\s+", " ")
    is_before = tf.range(width)[:, None] > tf.range(width)
    is_same = (texts[:, :, None] == texts[:, None]) & is_before
    is_left = (scores > -np.inf) & ~tf.reduce_any(is_same, axis=2)
    # Places that are left out go behind the others, which keep their order.
    order = tf.argsort(tf.cast(~is_left, tf.int32), axis=1, stable=True)

    def ordered(values, otherwise):
        values = tf.gather(values, order, batch_dims=1)
        is_kept = tf.gather(is_left, order, batch_dims=1)
        for _ in range(values.shape.rank - 2):
            is_kept = is_kept[..., None]
        return tf.where(is_kept, values, otherwise)

    return {
        "beam_texts": ordered(texts, ""),
        "beam_scores": ordered(scores, -np.inf),
        "token_ids": ordered(ids, 0),
        "token_lengths": ordered(lengths, 0),
        "log_probability": ordered(log_probability, -np.inf),
    }
