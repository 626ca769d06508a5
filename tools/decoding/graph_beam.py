"""Transducer beam search as TensorFlow operations, for SavedModels."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tools.decoding.graph import Hypotheses, detokenize
from tools.decoding.graph_hypotheses import (
    NEVER,
    BeamHypotheses,
    Beams,
    Networks,
    collected,
    merged,
    ranked,
    where,
)


class _Search:
    """The steps of a search; see `beam_decode`."""

    def __init__(self, networks: Networks, *, width, max_symbols, penalty, blank, beam_prune):
        self._networks, self._width, self._max_symbols = networks, width, max_symbols
        self._penalty, self._blank, self._beam_prune = penalty, blank, beam_prune

    def frame(self, beams: Beams, encoded: tf.Tensor, is_active: tf.Tensor) -> Beams:
        """Decodes one frame `[B, D]`; rows that are not active stay as they are."""
        beams = beams.begin(0)
        ended = beams._replace(scores=tf.zeros_like(beams.scores) + NEVER)

        def step(number, current, ended):
            logits = self._networks.logits(encoded, current)
            sums = tf.reduce_logsumexp(logits, axis=-1, keepdims=True)
            scores = tf.cast(logits - sums, tf.float64)
            blanks = scores[:, :, self._blank]
            with_blank = current._replace(
                scores=current.scores + blanks - self._penalty,
                log_probabilities=current.log_probabilities + blanks,
            )
            ended = merged(ended, with_blank, self._width)
            longer = self._extended(number, current, scores, ended)
            is_last = number + 1 == self._max_symbols
            ended, longer = tf.cond(
                is_last,
                lambda: (merged(ended, longer, self._width), longer),
                lambda: (ended, self._networks.read(longer)),
            )
            return number + 1, longer, ended

        def goes_on(number, current, _):
            return (number < self._max_symbols) & tf.reduce_any(current.scores > NEVER)

        current = beams._replace(scores=tf.where(is_active[:, None], beams.scores, NEVER))
        _, _, ended = tf.while_loop(goes_on, step, (0, current, ended))
        return where(is_active, self._networks.read(ended), beams)

    def _extended(
        self, number: tf.Tensor, current: Beams, scores: tf.Tensor, ended: Beams
    ) -> Beams:
        """Returns the best hypotheses with another symbol that may still be among the best."""
        size = scores.shape[-1]
        least = tf.reduce_max(ended.scores, axis=1) - self._beam_prune
        least = tf.maximum(least, tf.reduce_min(ended.scores, axis=1))
        totals = current.scores[:, :, None] + scores
        is_close = totals > least[:, None, None]
        is_close &= tf.range(size) != self._blank
        totals = tf.where(is_close, totals, NEVER)
        flat = tf.reshape(totals, [tf.shape(totals)[0], self._width * size])
        best, places = tf.math.top_k(flat, self._width)
        parents, symbols = places // size, places % size
        gains = tf.gather(tf.reshape(scores, tf.shape(flat)), places, batch_dims=1)
        found = current.take(parents).with_symbols(symbols, number)
        return found._replace(scores=best, log_probabilities=found.log_probabilities + gains)


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
    networks = Networks(predict, join)
    search = _Search(
        networks,
        width=width,
        max_symbols=max_symbols_per_frame,
        penalty=tf.constant(blank_penalty, tf.float64),
        blank=blank,
        beam_prune=tf.constant(beam_prune, tf.float64),
    )
    frames = tf.reduce_max(tf.concat([encoded_lengths, [0]], 0))
    beams = networks.start(initial_states, width, max_symbols_per_frame, blank=blank).begin(0)
    origins = tf.TensorArray(tf.int32, frames, element_shape=beams.origins.shape)
    emitted = tf.TensorArray(tf.int32, frames, element_shape=beams.emitted.shape)

    def decode(frame, beams, origins, emitted):
        beams = search.frame(beams, encoded[:, frame], frame < encoded_lengths)
        origins = origins.write(frame, beams.origins)
        return frame + 1, beams, origins, emitted.write(frame, beams.emitted)

    _, beams, origins, emitted = tf.while_loop(
        lambda frame, *_: frame < frames, decode, (0, beams, origins, emitted)
    )
    best, scores = ranked(
        beams._replace(origins=beams.begin(0).origins), width, norm_score=norm_score
    )
    # The last entry makes `stack` work for a batch without any valid frame.
    path = tf.TensorArray(tf.int32, frames + 1, element_shape=beams.emitted.shape)
    path = path.write(frames, -tf.ones_like(beams.emitted))

    def go_back(frame, places, path):
        path = path.write(frame, tf.gather(emitted.read(frame), places, batch_dims=1))
        return frame - 1, tf.gather(origins.read(frame), places, batch_dims=1), path

    _, _, path = tf.while_loop(
        lambda frame, *_: frame >= 0, go_back, (frames - 1, best.origins, path)
    )
    return collected(best, scores, path, blank=blank)


def different_texts(
    found: BeamHypotheses, surfaces: Sequence[str], size: int | None = None
) -> dict[str, tf.Tensor]:
    """Converts hypotheses to texts and leaves out those whose text has a better hypothesis.

    Args:
        found: hypotheses, best first.
        surfaces: `[V]` text of each token.
        size: number W of texts to return; None for that of the hypotheses.

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
    order = tf.argsort(tf.cast(~is_left, tf.int32), axis=1, stable=True)[:, :size]

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
