"""Greedy recognition of waveforms in a graph of TensorFlow, for exports and for evaluation."""

from collections.abc import Callable

import tensorflow as tf

from conformer.model import BLANK, ConformerTransducer
from tools.decoding.graph import Hypotheses, greedy_decode
from tools.layers.masking import sequence_mask


def without_silence(
    waveforms: tf.Tensor, lengths: tf.Tensor, encoded_lengths: tf.Tensor
) -> tf.Tensor:
    """Sets the length of all-zero waveforms to 0, so that silence decodes to an empty text.

    Args:
        waveforms: `[B, S]`.
        lengths: `[B]` valid samples.
        encoded_lengths: `[B]` valid frames.

    Returns:
        `[B]` frames to decode.
    """
    inside = sequence_mask(lengths, tf.shape(waveforms)[1])
    sounds = tf.reduce_any(inside & (waveforms != 0.0), axis=1)
    return tf.where(sounds, encoded_lengths, 0)


def greedy(
    model: ConformerTransducer,
    waveforms: tf.Tensor,
    lengths: tf.Tensor,
    max_symbols_per_frame: int,
    *,
    listen: Callable | None = None,
) -> Hypotheses:
    """Recognizes `[B, S]` waveforms with `[B]` lengths; called in a graph.

    Args:
        model: built.
        waveforms: `[B, S]`.
        lengths: `[B]` valid samples.
        max_symbols_per_frame: of the decoder.
        listen: stands in for `model.listen` and `without_silence` where they are one function.
    """
    if listen is None:
        encoded, encoded_lengths = model.listen(waveforms, lengths)
        encoded_lengths = without_silence(waveforms, lengths, encoded_lengths)
    else:
        encoded, encoded_lengths = listen(waveforms, lengths)
    return greedy_decode(
        encoded,
        encoded_lengths,
        model.predict,
        model.join,
        initial_states=model.prediction.initial_state(tf.shape(waveforms)[0]),
        max_symbols_per_frame=max_symbols_per_frame,
        blank=BLANK,
    )
