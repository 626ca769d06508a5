"""What an exported wav2vec 2.0 computes, and what it says of itself."""

import math

import keras
import tensorflow as tf

from tools.speech.wav_bytes import decode_wavs
from wav2vec2.config import PreprocessingConfig
from wav2vec2.model import Wav2Vec2
from wav2vec2.vocabulary import Vocabulary


class Signatures:
    """The signatures of an exported CTC model, with dynamic shapes.

    Args:
        model: built, float32.
        vocabulary: of the logits.
        preprocessing: of the sound.

    Attributes:
        functions: by the names of the signatures.
        weights: the variables that they read.
    """

    def __init__(self, model: Wav2Vec2, vocabulary: Vocabulary, preprocessing: PreprocessingConfig):
        self._model, self._vocabulary, self._preprocessing = model, vocabulary, preprocessing
        position = model.encoder.position
        # Weight norm and masks are for training.
        self._kernels = keras.Variable(position.kernels(), trainable=False, name="position_kernels")
        unread = {v.path for v in (position.direction, position.gain, *model.masking.weights)}
        self.weights = [v for v in model.weights if v.path not in unread] + [self._kernels]
        sound = [
            tf.TensorSpec([None, None], tf.float32, "waveforms"),
            tf.TensorSpec([None], tf.int32, "lengths"),
        ]
        # Called by both signatures, so that an export holds the graph once.
        self._logits = tf.function(self._compute_logits, input_signature=sound, autograph=False)
        files = tf.TensorSpec([None], tf.string, "bytes")
        self.functions = {
            "serving_default": tf.function(self._recognize, input_signature=sound, autograph=False),
            "serve_bytes": tf.function(
                self._recognize_bytes, input_signature=[files], autograph=False
            ),
        }

    def _compute_logits(self, waveforms, lengths):
        with self._model.encoder.position.fixed(self._kernels):
            logits, frames = frame_logits(self._model, self._preprocessing, waveforms, lengths)
        return {"logits": logits, "logit_lengths": frames}

    def _recognize(self, waveforms, lengths):
        return self._logits(waveforms, lengths)

    def _recognize_bytes(self, bytes):
        """Reads 16-bit PCM WAV files of the model's rate; the most probable path of each."""
        fewest = self._model.config.receptive_field_samples
        found = self._logits(*decode_wavs(bytes, self._preprocessing.sample_rate_hz, fewest))
        path = tf.argmax(found["logits"], axis=-1, output_type=tf.int32)
        return {"text": best_path_text(path, found["logit_lengths"], self._vocabulary)}


def frame_logits(model: Wav2Vec2, preprocessing: PreprocessingConfig, waveforms, lengths):
    """Recognizes `[B, S]` waveforms with `[B]` lengths as they are read.

    Returns:
        Logits `[B, T, V]`, and how many of them `[B]` count.
    """
    fewest = model.config.receptive_field_samples
    message = f"Expected waveforms of at least {fewest} samples. Leave out shorter ones."
    with tf.control_dependencies(
        [tf.debugging.assert_greater_equal(tf.shape(waveforms)[1], fewest, message)]
    ):
        inside = tf.sequence_mask(lengths, tf.shape(waveforms)[1])
    with tf.name_scope("normalization"):
        x = normalized(waveforms, inside, preprocessing)
    # Digital silence says nothing, whatever a model would make of it.
    sounds = tf.reduce_any(inside & (waveforms != 0.0), axis=1)
    return model(x, lengths), tf.where(sounds, model.logit_lengths(lengths), 0)


def normalized(waveforms, inside, preprocessing: PreprocessingConfig):
    """Prepares sound as the model was trained with it.

    Args:
        waveforms: `[B, S]`.
        inside: `[B, S]` bool, True at valid samples.
        preprocessing: whether each row gets zero mean and unit variance.

    Returns:
        `[B, S]`, zero outside.
    """
    x = tf.where(inside, waveforms, 0.0)
    if not preprocessing.normalize:
        return x
    count = tf.maximum(tf.reduce_sum(tf.cast(inside, tf.float32), 1, keepdims=True), 1.0)
    x = tf.where(inside, x - tf.reduce_sum(x, 1, keepdims=True) / count, 0.0)
    variance = tf.reduce_sum(tf.square(x), 1, keepdims=True) / count
    return x * tf.math.rsqrt(variance + preprocessing.variance_epsilon)


def best_path_text(path, lengths, vocabulary: Vocabulary):
    """Writes the text of paths: `Vocabulary.decode_path` in the graph.

    Args:
        path: `[B, T]` int32, a symbol for each frame.
        lengths: `[B]` valid frames.
        vocabulary: of the symbols.

    Returns:
        `[B]` strings.
    """
    before = tf.pad(path[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
    starts = (path != before) & tf.sequence_mask(lengths, tf.shape(path)[1])
    # A blank writes nothing as it is.
    pieces = tf.where(starts, tf.gather(tf.constant(vocabulary.surfaces), path), "")
    return tf.strings.strip(tf.strings.reduce_join(pieces, axis=-1))


def pipeline_description(
    model: Wav2Vec2, vocabulary: Vocabulary, preprocessing: PreprocessingConfig
) -> dict:
    """What converters, runners and servers need to know of the model."""
    config, rate_hz = model.config, preprocessing.sample_rate_hz
    fewest = config.receptive_field_samples
    return {
        "family": "wav2vec2",
        "kind": "ctc",
        "sample_rate_hz": rate_hz,
        "min_seconds": fewest / rate_hz,
        "max_seconds": preprocessing.max_seconds,
        "normalize": preprocessing.normalize,
        "mask_padding": config.mask_padding,
        "hop_samples": config.hop_samples,
        "receptive_field_samples": fewest,
        "blank": vocabulary.blank_id,
        "convert": {
            "serving_default": {
                "dim_range": {"waveforms": [[fewest, round(preprocessing.max_seconds * rate_hz)]]},
                # What tells one frame from the next is small beside what all have in common until
                # the norm behind the convolutions: 8 bits there cost 61 % of the logits of initial
                # weights (base's widths, two layers), and 4 % without. The head is little work.
                "keep_in_float": ["feature_encoder", "head"],
                # Unless they are masked, zeros behind a sound change what it gives.
                "paddable": config.mask_padding,
            }
        },
        "vocabulary": {
            "kind": "characters",
            "tokens": list(vocabulary.tokens),
            "surfaces": list(vocabulary.surfaces),
            "delimiter": vocabulary.delimiter_id,
        },
        "num_parameters": sum(math.prod(v.shape) for v in model.weights),
    }
