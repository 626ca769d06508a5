"""Beam search of token-and-duration transducers as TensorFlow operations, for SavedModels."""

from collections.abc import Callable, Sequence

import tensorflow as tf

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
from tools.decoding.options import TDT_ROOM

Slots = tuple[Beams, ...]  # hypotheses of the next frames, by the number of frames until then


class _Search:
    """The steps of a search; see `tdt_beam_decode`."""

    def __init__(
        self, networks: Networks, durations, *, width, max_symbols, penalty, blank, beam_prune
    ):
        self._networks, self._durations, self._width = networks, tuple(durations), width
        self._max_symbols, self._penalty = max_symbols, penalty
        self._blank, self._beam_prune = blank, beam_prune

    def frame(
        self, slots: Slots, encoded: tf.Tensor, number: tf.Tensor, is_active: tf.Tensor
    ) -> tuple[Slots, Beams]:
        """Decodes one frame; rows that are not active stay as they are.

        Args:
            slots: hypotheses of this frame and of the next ones.
            encoded: `[B, D]`.
            number: scalar, number of the frame.
            is_active: `[B]`.

        Returns:
            The hypotheses of the next frames, and those that were decoded.
        """
        first = slots[0]._replace(scores=tf.where(is_active[:, None], slots[0].scores, NEVER))
        nothing = tf.reduce_max(first.scores, axis=1) + NEVER
        chosen = self._networks.read(self._close(first.best(self._width), nothing))
        empty = slots[0]._replace(scores=tf.zeros_like(slots[0].scores) + NEVER)

        def step(symbol, current, leading, targets):
            symbols, lasting = self._scores(encoded, current)
            gains, tokens = self._candidates(symbols)
            blanks = symbols[:, :, self._blank]
            totals = current.scores[:, :, None] + gains
            best = current.scores + blanks - self._penalty
            best = tf.maximum(best, tf.reduce_max(totals, axis=2)) + tf.reduce_max(lasting, axis=2)
            leading = tf.maximum(leading, tf.reduce_max(best, axis=1))

            def longer(place):
                return self._longer(current, (gains, tokens), lasting[:, :, place], symbol)

            stays, is_last = empty.best(self._width), symbol + 1 == self._max_symbols
            more: dict[int, list[Beams]] = {}
            for frames in sorted({max(x, 1) for x in self._durations}):
                places = [i for i, x in enumerate(self._durations) if max(x, 1) == frames]
                gain = blanks + tf.reduce_logsumexp(tf.gather(lasting, places, axis=2), axis=2)
                moved = current._replace(
                    scores=current.scores + gain - self._penalty,
                    log_probabilities=current.log_probabilities + gain,
                )
                more[frames] = [moved]
            for place, duration in enumerate(self._durations):
                found = longer(place)
                if duration:
                    more[duration].append(found)
                    continue
                never = found._replace(scores=tf.zeros_like(found.scores) + NEVER)
                more[1].append(where(is_last & tf.ones_like(is_active), found, never))
                stays = where(is_last & tf.ones_like(is_active), never, found)
            targets = tuple(
                self._added(target, more.get(frames, []))
                for frames, target in enumerate(targets, 1)
            )
            stays = self._networks.read(self._close(stays, leading))
            return symbol + 1, stays, leading, targets

        def goes_on(symbol, current, *_):
            return (symbol < self._max_symbols) & tf.reduce_any(current.scores > NEVER)

        current = chosen.begin(number * self._width)
        _, _, _, targets = tf.while_loop(goes_on, step, (0, current, nothing, (*slots[1:], empty)))
        pairs = zip(targets, slots, strict=True)
        return tuple(where(is_active, after, before) for after, before in pairs), chosen

    def _close(self, beams: Beams, leading: tf.Tensor) -> Beams:
        """Removes hypotheses that are much worse than the best one, or than `leading` `[B]`."""
        least = tf.maximum(tf.reduce_max(beams.scores, axis=1), leading) - self._beam_prune
        is_close = beams.scores >= least[:, None]
        return beams._replace(scores=tf.where(is_close, beams.scores, NEVER))

    def _scores(self, encoded: tf.Tensor, current: Beams) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the log-probabilities `[B, W, V]` of symbols and `[B, W, N]` of durations."""
        logits = self._networks.logits(encoded, current)
        count = len(self._durations)
        parts = logits[:, :, :-count], logits[:, :, -count:]
        sums = [tf.reduce_logsumexp(x, axis=-1, keepdims=True) for x in parts]
        symbols, lasting = (
            tf.cast(x - total, tf.float64) for x, total in zip(parts, sums, strict=True)
        )
        return symbols, lasting

    def _candidates(self, symbols: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the best symbols of each hypothesis, `[B, W, K]` scores and tokens."""
        size = symbols.shape[-1]
        others = tf.where(tf.range(size) == self._blank, NEVER, symbols)
        return tf.math.top_k(others, min(self._width, size - 1))

    def _longer(
        self,
        current: Beams,
        candidates: tuple[tf.Tensor, tf.Tensor],
        lasting: tf.Tensor,
        symbol: tf.Tensor,
    ) -> Beams:
        """Returns the best hypotheses with another symbol of one duration.

        Args:
            current: W hypotheses.
            candidates: `[B, W, K]` scores and tokens.
            lasting: `[B, W]` log-probability of the duration.
            symbol: scalar, number of the symbol in the frame.
        """
        gains = candidates[0] + lasting[:, :, None]
        each = gains.shape[2]
        shape = [tf.shape(gains)[0], self._width * each]
        totals = tf.reshape(current.scores[:, :, None] + gains, shape)
        scores, places = tf.math.top_k(totals, self._width)
        gains, tokens = (
            tf.gather(tf.reshape(x, shape), places, batch_dims=1) for x in (gains, candidates[1])
        )
        found = current.take(places // each).with_symbols(tokens, symbol)
        return found._replace(scores=scores, log_probabilities=found.log_probabilities + gains)

    def _added(self, beams: Beams, more: Sequence[Beams]) -> Beams:
        """Merges hypotheses with those of a frame, and returns the best `TDT_ROOM` x W."""
        if not more:
            return beams
        size = TDT_ROOM * self._width
        *early, last = more
        for number, one in enumerate(early, 1):
            beams = merged(beams, one, size + number * self._width)
        return merged(beams, last, size)


def tdt_beam_decode(
    encoded: tf.Tensor,
    encoded_lengths: tf.Tensor,
    predict: Callable,
    join: Callable,
    *,
    initial_states: tf.Tensor,
    durations: Sequence[int],
    width: int,
    max_symbols_per_frame: int,
    blank_penalty: float = 0.0,
    blank: int = 0,
    norm_score: bool = False,
    beam_prune: float = 5.0,
) -> BeamHypotheses:
    """Searches a batch with a beam; see `tools.decoding.tdt_beam.TdtBeamSearch`.

    Args:
        encoded: `[B, T, D]` encoder output.
        encoded_lengths: `[B]` valid frames.
        predict: prediction network, `(tokens [N, 1], states) -> (predicted [N, 1, P], states)`.
        join: joint network, `(encoded [N, 1, D], predicted [N, 1, P]) -> logits [N, 1, 1, V + M]`:
            those of the V symbols, then those of the M durations.
        initial_states: `[B, ...]` states of the prediction network before the first symbol.
        durations: M numbers of frames.
        width: number of hypotheses W that are kept, at least 1.
        max_symbols_per_frame: number of symbols of duration 0 after which the search moves to the
            next frame.
        blank_penalty: subtracted from the log probability of the blank in the scores.
        blank: index of the blank symbol.
        norm_score: divides the scores of finished hypotheses by their number of tokens.
        beam_prune: hypotheses that are so much worse than the best one of the frame are dropped.

    Returns:
        All finished hypotheses, with different tokens, best first: more than W.
    """
    networks = Networks(predict, join)
    search = _Search(
        networks,
        durations,
        width=width,
        max_symbols=max_symbols_per_frame,
        penalty=tf.constant(blank_penalty, tf.float64),
        blank=blank,
        beam_prune=tf.constant(beam_prune, tf.float64),
    )
    frames = tf.reduce_max(tf.concat([encoded_lengths, [0]], 0))
    start = networks.start(initial_states, TDT_ROOM * width, max_symbols_per_frame, blank=blank)
    free = start._replace(scores=tf.zeros_like(start.scores) + NEVER)
    slots = (start, *[free] * (max(1, *durations) - 1))
    shape = start.emitted.shape
    origins = tf.TensorArray(tf.int32, frames, element_shape=[shape[0], width])
    emitted = tf.TensorArray(tf.int32, frames, element_shape=[shape[0], width, shape[2]])

    def decode(frame, slots, origins, emitted):
        current, is_active = encoded[:, frame], frame < encoded_lengths
        slots, chosen = search.frame(slots, current, frame, is_active)
        origins = origins.write(frame, chosen.origins)
        return frame + 1, slots, origins, emitted.write(frame, chosen.emitted)

    _, slots, origins, emitted = tf.while_loop(
        lambda frame, *_: frame < frames, decode, (0, slots, origins, emitted)
    )
    ended = slots[0]
    for number, slot in enumerate(slots[1:], 2):
        ended = merged(ended, slot, number * TDT_ROOM * width)
    best, scores = ranked(ended, ended.scores.shape[1], norm_score=norm_score)
    path = tf.TensorArray(tf.int32, frames + 1, element_shape=best.emitted.shape)
    path = path.write(frames, best.emitted)

    def go_back(frame, numbers, path):
        is_here, places = numbers // width == frame, numbers % width
        symbols = tf.gather(emitted.read(frame), places, batch_dims=1)
        path = path.write(frame, tf.where(is_here[:, :, None], symbols, -1))
        before = tf.gather(origins.read(frame), places, batch_dims=1)
        return frame - 1, tf.where(is_here, before, numbers), path

    _, _, path = tf.while_loop(
        lambda frame, *_: frame >= 0, go_back, (frames - 1, best.origins, path)
    )
    return collected(best, scores, path, blank=blank)
