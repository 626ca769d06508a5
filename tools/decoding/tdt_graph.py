"""Greedy decoding of token-and-duration transducers as TensorFlow operations."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tools.decoding.graph import Hypotheses


def tdt_greedy_decode(
    encoded: tf.Tensor,
    encoded_lengths: tf.Tensor,
    predict: Callable,
    join: Callable,
    *,
    initial_states: tf.Tensor,
    durations: Sequence[int],
    max_symbols_per_frame: int,
    blank_penalty: float = 0.0,
    blank: int = 0,
) -> Hypotheses:
    """Decodes a batch greedily, with the steps of `tools.decoding.tdt.TdtSearch`.

    Args:
        encoded: `[B, T, D]` encoder output.
        encoded_lengths: `[B]` valid frames.
        predict: prediction network, `(tokens [B, 1], states) -> (predicted [B, 1, P], states)`.
        join: joint network, `(encoded [B, 1, D], predicted [B, 1, P]) -> logits [B, 1, 1, V + N]`:
            those of the V symbols, then those of the N durations.
        initial_states: states of the prediction network before the first symbol.
        durations: N numbers of frames.
        max_symbols_per_frame: symbols of duration 0 in one frame, after which the search moves on.
        blank_penalty: subtracted from the log probability of the blank when a symbol is chosen.
        blank: index of the blank symbol.

    Returns:
        The decoded utterances.

    Source: Xu et al., Token-and-duration transducer (2023), algorithm 2.
    """
    batch, frames = tf.shape(encoded)[0], tf.shape(encoded)[1]
    zeros = tf.zeros([batch], tf.int32)
    predicted, states = predict(zeros[:, None] + blank, initial_states)

    def step(number, frame, symbols, predicted, states, log_probability, emitted):
        active = frame < encoded_lengths
        current = tf.gather(encoded, tf.minimum(frame, frames - 1), batch_dims=1)
        logits = tf.cast(join(current[:, None], predicted)[:, 0, 0], tf.float32)
        scores = tf.nn.log_softmax(logits[:, : -len(durations)])
        lasting = tf.nn.log_softmax(logits[:, -len(durations) :])
        penalty = blank_penalty * tf.one_hot(blank, tf.shape(scores)[-1])
        token = tf.argmax(scores - penalty, axis=-1, output_type=tf.int32)
        duration = tf.gather(tf.constant(durations, tf.int32), tf.argmax(lasting, axis=-1))
        best = tf.gather(scores, token, batch_dims=1) + tf.reduce_max(lasting, axis=-1)
        log_probability += tf.where(active, best, 0.0)
        emits = active & (token != blank)

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
    tokens = tf.ragged.boolean_mask(path, path >= 0)
    lengths = tf.cast(tokens.row_lengths(), tf.int32)
    return Hypotheses(tokens.to_tensor(blank), lengths, log_probability)
