"""Decodes WAV files, given as strings, to a padded batch in the graph of an exported model."""

import tensorflow as tf

from tools.speech.channels import LEAST_ENERGY


def decode_wavs(files: tf.Tensor, rate_hz: int, min_samples: int = 1) -> tuple:
    """Decodes 16-bit PCM WAV files; mixes several channels to mono as `channels.Mono` does.

    Args:
        files: `[B]` strings, the content of a file each.
        rate_hz: sampling rate of the model.
        min_samples: smallest padded length S, so that a batch of empty files has a frame.

    Returns:
        `[B, S]` float32, padded with zeros, and `[B]` int32 lengths in samples.

    Raises:
        tf.errors.InvalidArgumentError: at run time, if a file has another sampling rate.
    """

    def one(contents):
        sound, file_rate_hz = tf.audio.decode_wav(contents)
        message = f"Expected a WAV of {rate_hz} Hz. Resample it first."
        with tf.control_dependencies([tf.debugging.assert_equal(file_rate_hz, rate_hz, message)]):
            return tf.RaggedTensor.from_row_splits(_mono(sound), [0, tf.shape(sound, tf.int64)[0]])

    spec = tf.RaggedTensorSpec([1, None], tf.float32, ragged_rank=1)
    rows = tf.map_fn(one, files, fn_output_signature=spec).merge_dims(0, 1)
    waveforms = rows.to_tensor()
    missing = tf.maximum(min_samples - tf.shape(waveforms)[1], 0)
    waveforms = tf.pad(waveforms, [[0, 0], [0, missing]])
    return waveforms, tf.cast(rows.row_lengths(), tf.int32)


def _mono(sound: tf.Tensor) -> tf.Tensor:
    """Mixes channels `[S, channels]` to mono `[S]`."""
    mean, energies = tf.reduce_mean(sound, axis=1), tf.reduce_sum(sound**2, axis=0)
    independent = tf.reduce_sum(energies) / tf.cast(tf.size(energies), tf.float32) ** 2
    cancel = tf.reduce_sum(mean**2) < LEAST_ENERGY * independent
    return tf.where(cancel, tf.gather(sound, tf.argmax(energies), axis=1), mean)
