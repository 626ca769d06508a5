"""Signatures and description (`pipeline.json`) of an exported wav2vec 2.0."""

import math

import keras
import tensorflow as tf

from tools.conversion.pipeline import precision_of_policy
from tools.speech.wav_bytes import decode_wavs
from wav2vec2.config import PreprocessingConfig
from wav2vec2.model import Wav2Vec2
from wav2vec2.vocabulary import Vocabulary


class Signatures:
    """The signatures of an exported CTC model, with dynamic shapes.

    Args:
        model: a built model of any precision.
        vocabulary: vocabulary of the logits.
        preprocessing: preprocessing of the waveforms.

    Attributes:
        functions: `tf.function` of each signature by name.
        weights: variables that the signatures use.
    """

    def __init__(self, model: Wav2Vec2, vocabulary: Vocabulary, preprocessing: PreprocessingConfig):
        self._model, self._vocabulary, self._preprocessing = model, vocabulary, preprocessing
        position = model.encoder.position
        # Export the kernels instead of their weight normalization, which only training needs.
        self._kernels = keras.Variable(position.kernels(), trainable=False, name="position_kernels")
        unread = {v.path for v in (position.direction, position.gain, *model.masking.weights)}
        self.weights = [v for v in model.weights if v.path not in unread] + [self._kernels]
        sound = [
            tf.TensorSpec([None, None], tf.float32, "waveforms"),
            tf.TensorSpec([None], tf.int32, "lengths"),
        ]
        # Both signatures call this function, so that an export contains the graph once.
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
        """Recognizes 16-bit PCM WAV files at the sample rate of the model by greedy search."""
        fewest = self._model.config.receptive_field_samples
        found = self._logits(*decode_wavs(bytes, self._preprocessing.sample_rate_hz, fewest))
        path = tf.argmax(found["logits"], axis=-1, output_type=tf.int32)
        return {"text": best_path_text(path, found["logit_lengths"], self._vocabulary)}


def frame_logits(model: Wav2Vec2, preprocessing: PreprocessingConfig, waveforms, lengths):
    """Preprocesses waveforms and computes their logits.

    Args:
        model: a built model.
        preprocessing: preprocessing of the waveforms.
        waveforms: `[B, S]` float32, not normalized.
        lengths: `[B]` valid samples.

    Returns:
        `[B, T, V]` logits and `[B]` numbers of valid frames, which are 0 for all-zero waveforms.
    """
    fewest = model.config.receptive_field_samples
    message = f"Expected waveforms of at least {fewest} samples. Leave out shorter ones."
    with tf.control_dependencies(
        [tf.debugging.assert_greater_equal(tf.shape(waveforms)[1], fewest, message)]
    ):
        inside = tf.sequence_mask(lengths, tf.shape(waveforms)[1])
    with tf.name_scope("normalization"):
        x = normalized(waveforms, inside, preprocessing)
    # Set the length of all-zero waveforms to 0, so that silence decodes to an empty text.
    sounds = tf.reduce_any(inside & (waveforms != 0.0), axis=1)
    return model(x, lengths), tf.where(sounds, model.logit_lengths(lengths), 0)


def normalized(waveforms, inside, preprocessing: PreprocessingConfig):
    """Sets padding to zero and, if configured, normalizes waveforms to zero mean, unit variance.

    Args:
        waveforms: `[B, S]`.
        inside: `[B, S]` bool, True at valid samples.
        preprocessing: its `normalize` and `variance_epsilon` are used.

    Returns:
        `[B, S]`, zero in padding.
    """
    x = tf.where(inside, waveforms, 0.0)
    if not preprocessing.normalize:
        return x
    count = tf.maximum(tf.reduce_sum(tf.cast(inside, tf.float32), 1, keepdims=True), 1.0)
    x = tf.where(inside, x - tf.reduce_sum(x, 1, keepdims=True) / count, 0.0)
    variance = tf.reduce_sum(tf.square(x), 1, keepdims=True) / count
    return x * tf.math.rsqrt(variance + preprocessing.variance_epsilon)


def best_path_text(path, lengths, vocabulary: Vocabulary):
    """Returns the texts of paths, like `Vocabulary.decode_path`, inside a graph.

    Args:
        path: `[B, T]` int32 ids, one symbol for each frame.
        lengths: `[B]` valid frames.
        vocabulary: vocabulary of the ids.

    Returns:
        `[B]` strings.
    """
    before = tf.pad(path[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
    starts = (path != before) & tf.sequence_mask(lengths, tf.shape(path)[1])
    # The blank needs no special case, since its text is empty.
    pieces = tf.where(starts, tf.gather(tf.constant(vocabulary.surfaces), path), "")
    return tf.strings.strip(tf.strings.reduce_join(pieces, axis=-1))


def pipeline_description(
    model: Wav2Vec2, vocabulary: Vocabulary, preprocessing: PreprocessingConfig
) -> dict:
    """Returns the content of `pipeline.json`: what converters, runners and servers read.

    Args:
        model: a built model.
        vocabulary: vocabulary of the logits.
        preprocessing: preprocessing of the waveforms.
    """
    config, rate_hz = model.config, preprocessing.sample_rate_hz
    fewest = config.receptive_field_samples
    return {
        "family": "wav2vec2",
        "kind": "ctc",
        "precision": precision_of_policy(model.dtype_policy.name),
        "sample_rate_hz": rate_hz,
        "min_seconds": fewest / rate_hz,
        "max_seconds": preprocessing.max_seconds,
        "long_audio": _long_audio(preprocessing.max_seconds),
        "normalize": preprocessing.normalize,
        "mask_padding": config.mask_padding,
        "hop_samples": config.hop_samples,
        "receptive_field_samples": fewest,
        "blank": vocabulary.blank_id,
        # `serve_bytes` contains a search; sessions decode the logits of `serving_default`.
        "searches": {
            "serve_bytes": {"kind": "greedy", "head": "ctc"},
            "serving_default": {"kinds": ["greedy", "beam"], "head": "ctc"},
        },
        "convert": {
            "serving_default": {
                "dim_range": {"waveforms": [[fewest, round(preprocessing.max_seconds * rate_hz)]]},
                # Up to the norm after the convolutions, the difference between two frames is small
                # compared with their mean. Quantizing the feature encoder to 8 bits changes the
                # logits by 61 %, quantizing only the other layers by 4 % (initial weights, widths
                # of base, two layers). Quantizing the head would save little time.
                "keep_in_float": ["feature_encoder", "head"],
                # Without a mask, zeros after a sound change its logits.
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


def _long_audio(max_seconds: float) -> dict[str, float]:
    """Returns the lengths of the chunks of long recordings; most checkpoints saw 20 s at most."""
    longest = min(20.0, max_seconds)
    return {"chunk_seconds": longest, "context_seconds": longest / 10}
