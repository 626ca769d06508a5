"""Greedy search of a transducer in a graph of TensorFlow, for SavedModels and training."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf


class Hypotheses(NamedTuple):
    """Decoded utterances.

    Attributes:
        token_ids: `[B, U]` int32, padded with blank.
        token_lengths: `[B]` int32.
        log_probability: `[B]` float32, of the chosen path.
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
    max_symbols_per_frame: int = 5,
    blank: int = 0,
) -> Hypotheses:
    """Follows the most probable symbol of every step.

    Each utterance has its own frame pointer, so a batch takes at most max(T + U) steps, and what an
    utterance gives does not depend on its batch.

    Args:
        encoded: `[B, T, D]`.
        encoded_lengths: `[B]` valid frames.
        predict: `(tokens [B, 1], states) -> (predicted [B, 1, P], states)`.
        join: `(encoded [B, 1, D], predicted [B, 1, P]) -> logits [B, 1, 1, V]`.
        initial_states: `[B, S, P]` states before the first symbol.
        max_symbols_per_frame: after so many symbols the next frame follows without a blank.
        blank: index of the blank symbol.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), section 2.6, for a
    beam of one.
    """
    batch, frames = tf.shape(encoded)[0], tf.shape(encoded)[1]
    zeros = tf.zeros([batch], tf.int32)
    predicted, states = predict(zeros[:, None] + blank, initial_states)

    def step(number, frame, symbols, predicted, states, log_probability, emitted):
        active = frame < encoded_lengths
        current = tf.gather(encoded, tf.minimum(frame, frames - 1), batch_dims=1)
        logits = join(current[:, None], predicted)[:, 0, 0]
        scores = tf.nn.log_softmax(tf.cast(logits, tf.float32))
        token = tf.argmax(scores, axis=-1, output_type=tf.int32)
        emits = active & (token != blank)
        best = tf.reduce_max(scores, axis=-1)
        log_probability += tf.where(active, best, 0.0)

        def read_tokens():
            following, following_states = predict(token[:, None], states)
            return (
                tf.where(emits[:, None, None], following, predicted),
                tf.where(emits[:, None, None], following_states, states),
            )

        predicted, states = tf.cond(tf.reduce_any(emits), read_tokens, lambda: (predicted, states))
        symbols = tf.where(emits, symbols + 1, 0)
        moves = ~emits | (symbols >= max_symbols_per_frame)
        frame = tf.where(moves, frame + 1, frame)
        symbols = tf.where(moves, 0, symbols)
        emitted = emitted.write(number, tf.where(emits, token, -1))
        return number + 1, frame, symbols, predicted, states, log_probability, emitted

    # The first row is there so that a batch without a valid frame has something to stack.
    emitted = tf.TensorArray(tf.int32, 1, dynamic_size=True, element_shape=[None])
    emitted = emitted.write(0, zeros - 1)
    steps, _, _, _, _, log_probability, emitted = tf.while_loop(
        lambda _, frame, *rest: tf.reduce_any(frame < encoded_lengths),
        step,
        (1, zeros, zeros, predicted, states, tf.zeros([batch]), emitted),
    )
    path = tf.transpose(tf.reshape(emitted.stack(), [steps, batch]))
    tokens = tf.ragged.boolean_mask(path, path >= 0)
    lengths = tf.cast(tokens.row_lengths(), tf.int32)
    return Hypotheses(tokens.to_tensor(blank), lengths, log_probability)


def detokenize(hypotheses: Hypotheses, surfaces: Sequence[str]) -> tf.Tensor:
    """Writes text with core TensorFlow operations alone.

    Args:
        hypotheses: from a decoder.
        surfaces: the text that each token id adds.

    Returns:
        `[B]` strings without outer spaces.
    """
    pieces = tf.gather(tf.constant(list(surfaces)), hypotheses.token_ids)
    inside = tf.sequence_mask(hypotheses.token_lengths, tf.shape(hypotheses.token_ids)[1])
    return tf.strings.strip(tf.strings.reduce_join(tf.where(inside, pieces, ""), axis=-1))
