"""The graph decoders of the decision table in `audio`, and sounds as elements of `tf.data`."""

import os

import numpy as np
import tensorflow as tf
import tensorflow_io as tfio

from tools.speech.audio import DEFAULT_LIMITS, AudioError, AudioLimits, read, samples_of

# decode_flac of tensorflow-io 0.37.1 never looks for the end of the stream: it spins for ever on a
# file whose last frame is lost (`FlacReadableResource::Read`). A valid frame (17 bytes, 192 samples
# of 16-bit mono) with a sample number that no real one has makes it stop with an error. There are
# so many that a damaged last frame, of 4 x 4608 bytes at most, cannot swallow them all. Remove when
# the loop checks the decoder's state.
FLAC_GUARD = bytes.fromhex("fff91000febfbfbfbfbfbff00000002f0b") * (32768 // 17)


def decode_in_graph(path: tf.Tensor, decoder: tf.Tensor) -> tf.Tensor:
    """Decodes a file that `probe` has given to a graph decoder.

    Args:
        path: [] string.
        decoder: [] string, "graph_flac" or "graph_wav".

    Returns:
        [S] float32, the values of `read`.

    Raises:
        tf.errors.InvalidArgumentError: when it runs on damaged data.
    """
    data = tf.io.read_file(path)
    is_wav = tf.equal(decoder, "graph_wav")
    return tf.cond(is_wav, lambda: _wav_in_graph(data), lambda: _flac_in_graph(data))


def utterance_dataset(
    path: tf.Tensor, decoder: tf.Tensor, limits: AudioLimits = DEFAULT_LIMITS
) -> tf.data.Dataset:
    """Decodes one file inside `Dataset.interleave`: never fails, never loses its element.

    Args:
        path: [] string.
        decoder: [] string, a `Decoder`: what `probe` says, or "python", right for any file.
        limits: what is accepted.

    Returns:
        A dataset of exactly one element: `waveform` [S] float32 and `reason` [] string, which is
        empty when the waveform is fine, else a key of `REASONS`, and S is 0.
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
    # libFLAC puts zeros for a block with a wrong checksum and goes on. A block of zeros, silent or
    # damaged, is therefore for the python decoder to judge, which stops at a wrong checksum.
    size_bytes = tf.io.decode_raw(tf.strings.substr(data, 8, 2), tf.uint8)
    block_samples = tf.maximum(tf.tensordot(tf.cast(size_bytes, tf.int32), [256, 1], 1), 1)
    padded = tf.pad(samples, [[0, -tf.size(samples) % block_samples]])
    has_sound = tf.reduce_any(tf.reshape(padded, [-1, block_samples]) != 0, axis=1)
    with tf.control_dependencies([tf.debugging.assert_equal(tf.reduce_all(has_sound), True)]):
        return tf.cast(samples, tf.float32) / 32768.0
