"""Graph decoders of the table in `audio`, and decoding of sound files in `tf.data`."""

import os

import numpy as np
import tensorflow as tf
import tensorflow_io as tfio

from tools.speech.audio import DEFAULT_LIMITS, AudioError, AudioLimits, read, samples_of

# decode_flac of tensorflow-io 0.37.1 does not check for the end of the stream, and loops forever on
# a file without its last frame (`FlacReadableResource::Read`). These bytes are appended to a file:
# valid frames (17 bytes, 192 samples of 16-bit mono) with an impossible sample number, which make
# it stop with an error. They are repeated so often that a damaged last frame (at most 4 x 4608
# bytes) cannot contain all of them. Remove them when the loop checks the state of the decoder.
FLAC_GUARD = bytes.fromhex("fff91000febfbfbfbfbfbff00000002f0b") * (32768 // 17)


def decode_in_graph(path: tf.Tensor, decoder: tf.Tensor) -> tf.Tensor:
    """Decodes a file for which `probe` has selected a graph decoder.

    Args:
        path: scalar string.
        decoder: scalar string, "graph_flac" or "graph_wav".

    Returns:
        `[S]` float32, equal to the result of `read`.

    Raises:
        tf.errors.InvalidArgumentError: at run time, if the file is damaged.
    """
    data = tf.io.read_file(path)
    is_wav = tf.equal(decoder, "graph_wav")
    return tf.cond(is_wav, lambda: _wav_in_graph(data), lambda: _flac_in_graph(data))


def utterance_dataset(
    path: tf.Tensor, decoder: tf.Tensor, limits: AudioLimits = DEFAULT_LIMITS
) -> tf.data.Dataset:
    """Decodes one file, for use in `Dataset.interleave`. A bad file gives an element with a reason.

    Args:
        path: scalar string.
        decoder: scalar string, the `Decoder` that `probe` has selected; "python" works for every
            file.
        limits: accepted lengths and rates, and the model's rate.

    Returns:
        A dataset of exactly one element: `waveform` `[S]` float32 and `reason`, a scalar string.
        The reason is empty, or a key of `REASONS` if the file cannot be used; S is 0 then.
    """

    def by_python(path_bytes: bytes) -> tuple[np.ndarray, bytes]:
        try:
            return read(os.fsdecode(path_bytes), limits), b""
        except AudioError as error:
            return np.zeros(0, np.float32), error.reason.encode()

    def python_element(_: tf.Tensor) -> dict[str, tf.Tensor]:
        waveform, reason = tf.numpy_function(by_python, [path], (tf.float32, tf.string))
        return {
            "waveform": tf.ensure_shape(waveform, [None]),
            "reason": tf.ensure_shape(reason, []),
        }

    def graph_element(_: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"waveform": decode_in_graph(path, decoder), "reason": tf.constant("")}

    def within_limits(element: dict[str, tf.Tensor]) -> tf.Tensor:
        num_samples = tf.size(element["waveform"])
        return (num_samples >= samples_of(limits.min_seconds, limits)) & (
            num_samples <= samples_of(limits.max_seconds, limits)
        )

    once = tf.data.Dataset.from_tensors(0)
    in_graph = once.filter(lambda _: tf.not_equal(decoder, "python")).map(graph_element)
    in_graph = in_graph.filter(within_limits).ignore_errors(log_warning=False)
    return in_graph.concatenate(once.map(python_element)).take(1)


def _wav_in_graph(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.audio.decode_wav(data).audio, [None, 1])[:, 0]


def _flac_in_graph(data: tf.Tensor) -> tf.Tensor:
    guarded = tf.strings.join([data, FLAC_GUARD])
    samples = tfio.audio.decode_flac(guarded, shape=[-1, 1], dtype=tf.int16)[:, 0]
    # libFLAC returns zeros for a block with a wrong checksum and continues. A file with a block of
    # zeros therefore goes to the python decoder, which reports wrong checksums.
    size_bytes = tf.io.decode_raw(tf.strings.substr(data, 8, 2), tf.uint8)
    block_samples = tf.maximum(tf.tensordot(tf.cast(size_bytes, tf.int32), [256, 1], 1), 1)
    padded = tf.pad(samples, [[0, -tf.size(samples) % block_samples]])
    has_sound = tf.reduce_any(tf.reshape(padded, [-1, block_samples]) != 0, axis=1)
    with tf.control_dependencies([tf.debugging.assert_equal(tf.reduce_all(has_sound), True)]):
        return tf.cast(samples, tf.float32) / 32768.0
