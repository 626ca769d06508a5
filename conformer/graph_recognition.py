"""Recognition inside a TensorFlow graph, for exported models and for evaluation."""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from conformer.config import DecodingConfig
from conformer.model import BLANK, ConformerTransducer
from tools.decoding.graph import Hypotheses, ctc_greedy_decode, greedy_decode
from tools.decoding.graph_beam import beam_decode
from tools.decoding.graph_hypotheses import BeamHypotheses
from tools.decoding.graph_tdt_beam import tdt_beam_decode
from tools.layers.masking import sequence_mask


def without_silence(
    waveforms: tf.Tensor, lengths: tf.Tensor, encoded_lengths: tf.Tensor
) -> tf.Tensor:
    """Sets the encoded length of all-zero waveforms to 0, so that they decode to an empty text.

    Args:
        waveforms: `[B, S]`.
        lengths: `[B]` valid samples.
        encoded_lengths: `[B]` valid encoded frames.

    Returns:
        `[B]` numbers of encoded frames to decode.
    """
    inside = sequence_mask(lengths, tf.shape(waveforms)[1])
    sounds = tf.reduce_any(inside & (waveforms != 0.0), axis=1)
    return tf.where(sounds, encoded_lengths, 0)


def greedy(
    model: ConformerTransducer,
    waveforms: tf.Tensor,
    lengths: tf.Tensor,
    options: DecodingConfig,
    *,
    durations: Sequence[int] = (),
    listen: Callable | None = None,
) -> Hypotheses:
    """Decodes waveforms greedily. Call it in a `tf.function`.

    Args:
        model: a built model; with a CTC head if `options.head` is `"ctc"`.
        waveforms: `[B, S]` float32.
        lengths: `[B]` valid samples.
        options: options of the search.
        durations: durations of a token-and-duration transducer; empty for other models.
        listen: function `(waveforms, lengths) -> (encoded, encoded_lengths)` to call instead of
            `model.listen` and `without_silence`.

    Returns:
        Token ids, their number and the log probability of each utterance; see
        `tools.decoding.graph.Hypotheses`.
    """
    if listen is None:
        encoded, encoded_lengths = model.listen(waveforms, lengths)
        encoded_lengths = without_silence(waveforms, lengths, encoded_lengths)
    else:
        encoded, encoded_lengths = listen(waveforms, lengths)
    if options.head == "ctc":
        return ctc_greedy_decode(model.ctc_head(encoded), encoded_lengths, blank=BLANK)
    return greedy_decode(
        encoded,
        encoded_lengths,
        model.predict,
        model.join,
        initial_states=model.prediction.initial_state(tf.shape(waveforms)[0]),
        max_symbols_per_frame=options.max_symbols_per_frame,
        blank_penalty=options.blank_penalty,
        blank=BLANK,
        durations=durations,
    )


def beam_search(
    model: ConformerTransducer,
    encoded: tf.Tensor,
    encoded_lengths: tf.Tensor,
    options: DecodingConfig,
    *,
    durations: Sequence[int] = (),
) -> BeamHypotheses:
    """Decodes encoded frames of a transducer with a beam. Call it in a `tf.function`.

    Args:
        model: a built model.
        encoded: `[B, T, D]` encoder output.
        encoded_lengths: `[B]` valid frames.
        options: options of the search.
        durations: durations of a token-and-duration transducer; empty for other models.
    """
    decode = functools.partial(tdt_beam_decode, durations=durations) if durations else beam_decode
    return decode(
        encoded,
        encoded_lengths,
        model.predict,
        model.join,
        initial_states=model.prediction.initial_state(tf.shape(encoded)[0]),
        width=options.beam_width,
        max_symbols_per_frame=options.max_symbols_per_frame,
        blank_penalty=options.blank_penalty,
        blank=BLANK,
        norm_score=options.norm_score,
    )
