"""Greedy decoding as TensorFlow operations, for SavedModels and training."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tools.decoding.text import has_bytes


class Hypotheses(NamedTuple):
    """Decoded utterances.

    Attributes:
        token_ids: `[B, U]` int32, padded with blank.
        token_lengths: `[B]` int32.
        log_probability: `[B]` float32, log-probability of the chosen path, in nats.
    """

    token_ids: tf.Tensor
    token_lengths: tf.Tensor
    log_probability: tf.Tensor


def greedy_decode(
    encoded: tf.Tensor,
    encoded_lengths: tf.Tensor,
    predict: Callable,
    join: Callable,
    *,
    initial_states: tf.Tensor,
    durations: Sequence[int] = (),
    max_symbols_per_frame: int = 5,
    blank_penalty: float = 0.0,
    blank: int = 0,
) -> Hypotheses:
    """Decodes a batch greedily: takes the most probable symbol at every step.

    A transducer with durations also takes the most probable duration, and moves on by this number
    of frames, with the steps of `tools.decoding.tdt.TdtSearch`. Without durations, a symbol stays
    in its frame and a blank moves on by one frame.

    Each utterance has its own frame index. A batch therefore takes at most max(T + U) steps, and
    the result of an utterance does not depend on the rest of the batch.

    Args:
        encoded: `[B, T, D]` encoder output.
        encoded_lengths: `[B]` valid frames.
        predict: prediction network, `(tokens [B, 1], states) -> (predicted [B, 1, P], states)`.
        join: joint network, `(encoded [B, 1, D], predicted [B, 1, P]) -> logits [B, 1, 1, V + N]`:
            those of the V symbols, then those of the N durations.
        initial_states: `[B, 2, P]` states of the prediction network before the first symbol.
        durations: N numbers of frames of a token-and-duration transducer; empty for others.
        max_symbols_per_frame: number of symbols in one frame after which the search moves to the
            next frame without a blank.
        blank_penalty: subtracted from the log probability of the blank when a symbol is chosen.
            A positive value emits more symbols.
        blank: index of the blank symbol.

    Returns:
        The decoded utterances.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), section 2.6, with a
    beam of 1; Xu et al., Token-and-duration transducer (2023), algorithm 2.
    """
    batch, frames = tf.shape(encoded)[0], tf.shape(encoded)[1]
    zeros = tf.zeros([batch], tf.int32)
    predicted, states = predict(zeros[:, None] + blank, initial_states)

    def step(number, frame, symbols, predicted, states, log_probability, emitted):
        active = frame < encoded_lengths
        current = tf.gather(encoded, tf.minimum(frame, frames - 1), batch_dims=1)
        logits = tf.cast(join(current[:, None], predicted)[:, 0, 0], tf.float32)
        scores = tf.nn.log_softmax(logits[:, : -len(durations)] if durations else logits)
        penalty = blank_penalty * tf.one_hot(blank, tf.shape(scores)[-1])
        token = tf.argmax(scores - penalty, axis=-1, output_type=tf.int32)
        emits = active & (token != blank)
        best, duration = tf.gather(scores, token, batch_dims=1), 0
        if durations:
            lasting = tf.nn.log_softmax(logits[:, -len(durations) :])
            duration = tf.gather(tf.constant(durations, tf.int32), tf.argmax(lasting, axis=-1))
            best += tf.reduce_max(lasting, axis=-1)
        log_probability += tf.where(active, best, 0.0)

        def read_tokens():
            following, following_states = predict(token[:, None], states)
            return (
                tf.where(emits[:, None, None], following, predicted),
                tf.where(emits[:, None, None], following_states, states),
            )

        predicted, states = tf.cond(tf.reduce_any(emits), read_tokens, lambda: (predicted, states))
        symbols = tf.where(emits, symbols + 1, symbols)
        must_move = (token == blank) | (symbols >= max_symbols_per_frame)
        moves = tf.where(must_move, tf.maximum(duration, 1), duration)
        frame = tf.where(active, frame + moves, frame)
        symbols = tf.where(moves > 0, 0, symbols)
        emitted = emitted.write(number, tf.where(emits, token, -1))
        return number + 1, frame, symbols, predicted, states, log_probability, emitted

    # The first row makes `stack` work for a batch without any valid frame.
    emitted = tf.TensorArray(tf.int32, 1, dynamic_size=True, element_shape=[None])
    emitted = emitted.write(0, zeros - 1)
    steps, _, _, _, _, log_probability, emitted = tf.while_loop(
        lambda _, frame, *rest: tf.reduce_any(frame < encoded_lengths),
        step,
        (1, zeros, zeros, predicted, states, tf.zeros([batch]), emitted),
    )
    path = tf.transpose(tf.reshape(emitted.stack(), [steps, batch]))
    return _hypotheses(path, path >= 0, log_probability, blank)


def ctc_greedy_decode(logits: tf.Tensor, logit_lengths: tf.Tensor, *, blank: int = 0) -> Hypotheses:
    """Decodes CTC logits greedily: takes the most probable symbol of every frame.

    Consecutive frames with the same symbol give one token; blanks give none.

    Args:
        logits: `[B, T, V]`.
        logit_lengths: `[B]` valid frames.
        blank: index of the blank symbol.

    Returns:
        The decoded utterances. The log-probability is that of the path of symbols.

    Source: Graves et al., Connectionist temporal classification (2006), section 3.1.
    """
    scores = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    valid = tf.sequence_mask(logit_lengths, tf.shape(logits)[1])
    path = tf.argmax(scores, axis=-1, output_type=tf.int32)
    before = tf.pad(path[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
    log_probability = tf.reduce_sum(tf.where(valid, tf.reduce_max(scores, axis=-1), 0.0), axis=1)
    return _hypotheses(path, valid & (path != blank) & (path != before), log_probability, blank)


def _hypotheses(
    path: tf.Tensor, emitted: tf.Tensor, log_probability: tf.Tensor, blank: int
) -> Hypotheses:
    """Collects the emitted symbols of paths `[B, N]`; `emitted` is a mask of the same shape."""
    tokens = tf.ragged.boolean_mask(path, emitted)
    lengths = tf.cast(tokens.row_lengths(), tf.int32)
    return Hypotheses(tokens.to_tensor(blank), lengths, log_probability)


def detokenize(hypotheses: Hypotheses, surfaces: Sequence[str]) -> tf.Tensor:
    """Converts tokens to text, with core TensorFlow operations only.

    Args:
        hypotheses: decoded utterances.
        surfaces: `[V]` text of each token; see `tools.decoding.text.byte_surface`.

    Returns:
        `[B]` strings in UTF-8 without leading and trailing spaces.
    """
    written = [text.encode("utf-8", "surrogateescape") for text in surfaces]
    pieces = tf.gather(tf.constant(written), hypotheses.token_ids)
    inside = tf.sequence_mask(hypotheses.token_lengths, tf.shape(hypotheses.token_ids)[1])
    texts = tf.strings.reduce_join(tf.where(inside, pieces, ""), axis=-1)
    if has_bytes(surfaces):
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    return tf.strings.strip(texts)
