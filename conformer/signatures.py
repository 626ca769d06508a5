"""Signatures and description (`pipeline.json`) of an exported Conformer."""

import math

import tensorflow as tf

from conformer.config import ConformerConfig
from conformer.graph_recognition import beam_search, greedy, without_silence
from conformer.model import BLANK, ConformerTransducer
from tools.conversion.pipeline import precision_of_policy
from tools.decoding.graph import detokenize
from tools.decoding.graph_beam import different_texts
from tools.speech.wav_bytes import decode_wavs

MAX_WINDOW = 16  # frames of a row that a search evaluates at once


class Signatures:
    """The signatures of an exported transducer, with dynamic shapes and float32 outputs.

    The front end and the encoder are separate functions. The recognizer calls the same functions,
    so that an export contains each graph once.

    Args:
        model: a built model of any precision.
        surfaces: V texts; entry i is the text that token id i adds.
        config: configuration of the model.

    Attributes:
        functions: `tf.function` of each signature by name.
    """

    def __init__(
        self, model: ConformerTransducer, surfaces: tuple[str, ...], config: ConformerConfig
    ):
        self._model, self._surfaces, self._config = model, surfaces, config
        float32, int32 = tf.float32, tf.int32
        bins, width = model.features.num_mel_bins, model.encoder.hidden_dim

        def signature(function, **specs):
            specs = [tf.TensorSpec(shape, dtype, name) for name, (dtype, *shape) in specs.items()]
            return tf.function(function, input_signature=specs, autograph=False)

        sound = {"waveforms": (float32, None, None), "lengths": (int32, None)}
        self._features = signature(self._compute_features, **sound)
        self._encode = signature(
            self._encode_features, features=(float32, None, None, bins), lengths=(int32, None)
        )
        self._listen = signature(self._listen_waveforms, **sound)
        self._recognizer = signature(self._recognize, **sound)
        self.functions = {
            "serving_default": signature(self._recognize_waveforms, **sound),
            "serve_bytes": signature(self._recognize_bytes, bytes=(tf.string, None)),
            "features": self._features,
            "encode": self._encode,
            "listen": self._listen,
        }
        if model.joint is not None:
            states = model.prediction.state_shape
            self.functions["predict"] = signature(
                self._predict, tokens=(int32, None, 1), states=(float32, None, *states)
            )
            self.functions["join"] = signature(
                self._join,
                encoded=(float32, None, None, width),
                predicted=(float32, None, None, states[-1]),
            )
            # The joint network in two parts. A search projects each frame once.
            joint_width = model.joint.hidden_dim
            self.functions["project"] = signature(
                self._project, encoded=(float32, None, None, width)
            )
            self.functions["join_projected"] = signature(
                self._join_projected,
                encoded_projection=(float32, None, None, joint_width),
                predicted_projection=(float32, None, None, joint_width),
            )

        if has_beam(config):
            self.functions["serve_beam"] = signature(self._search_with_beam, **sound)

    def _compute_features(self, waveforms, lengths):
        features, frames = self._model.features(waveforms, lengths)
        return {"features": features, "feature_lengths": frames}

    def _encode_features(self, features, lengths):
        encoded, frames = self._model.encode(features, lengths)
        return {"encoded": tf.cast(encoded, tf.float32), "encoded_lengths": frames}

    def _predict(self, tokens, states):
        predicted, following = self._model.predict(tokens, states)
        projection = self._model.joint.project_predicted(predicted)
        found = {"predicted": predicted, "next_states": following}
        found["predicted_projection"] = projection
        return {name: tf.cast(value, tf.float32) for name, value in found.items()}

    def _join(self, encoded, predicted):
        return {"logits": self._model.join(encoded, predicted)}

    def _project(self, encoded):
        projection = self._model.joint.project_encoded(encoded)
        return {"encoded_projection": tf.cast(projection, tf.float32)}

    def _join_projected(self, encoded_projection, predicted_projection):
        joined = encoded_projection[:, :, None] + predicted_projection[:, None]
        return {"logits": self._model.joint.logits(joined)}

    def _listen_waveforms(self, waveforms, lengths):
        """Computes features and encodes them. All-zero waveforms have 0 encoded frames."""
        features = self._features(waveforms, lengths)
        encoded = self._encode(features["features"], features["feature_lengths"])
        frames = without_silence(waveforms, lengths, encoded["encoded_lengths"])
        heard = {"encoded": encoded["encoded"], "encoded_lengths": frames}
        if self._config.decoding.head == "ctc":
            heard["logits"] = self._model.ctc_head(encoded["encoded"])
        return heard

    def _recognize(self, waveforms, lengths):
        def listen(waveforms, lengths):
            heard = self._listen(waveforms, lengths)
            return heard["encoded"], heard["encoded_lengths"]

        options = self._config.decoding
        durations = self._config.model.durations
        hypotheses = greedy(
            self._model, waveforms, lengths, options, durations=durations, listen=listen
        )
        return {"text": detokenize(hypotheses, self._surfaces), **hypotheses._asdict()}

    def _search_with_beam(self, waveforms, lengths):
        heard, config = self._listen(waveforms, lengths), self._config
        encoded = heard["encoded"], heard["encoded_lengths"]
        durations = config.model.durations
        found = beam_search(self._model, *encoded, config.decoding, durations=durations)
        return different_texts(found, self._surfaces, config.decoding.beam_width)

    def _recognize_waveforms(self, waveforms, lengths):
        return self._recognizer(waveforms, lengths)

    def _recognize_bytes(self, bytes):
        """Recognizes 16-bit PCM WAV files at the sample rate of the model; averages channels."""
        waveforms, lengths = decode_wavs(bytes, self._config.features.sample_rate_hz)
        return self._recognizer(waveforms, lengths)


def has_beam(config: ConformerConfig) -> bool:
    """Returns whether an export has the signature `serve_beam`."""
    options = config.decoding
    return options.head == "transducer" and options.beam_width > 0


def searches(config: ConformerConfig) -> dict[str, dict]:
    """Returns the search of each signature that contains one, for `pipeline.json`.

    For `listen`, these are the kinds of search with which sessions decode its output.
    """
    head = config.decoding.head
    greedy_search = {"kind": "greedy", "head": head}
    found = {"serving_default": greedy_search, "serve_bytes": greedy_search}
    found["listen"] = {"kinds": ["greedy", "beam"], "head": head}
    if has_beam(config):
        width, norm_score = config.decoding.beam_width, config.decoding.norm_score
        found["serve_beam"] = {"kind": "beam", "beam_width": width, "norm_score": norm_score}
    return found


def exported_weights(model: ConformerTransducer, config: ConformerConfig) -> list:
    """Returns the variables of the model, without those that only training uses."""
    only_trained = [model.simple_joint, model.ctc_head if config.decoding.head != "ctc" else None]
    left_out = {id(v) for part in only_trained if part is not None for v in part.weights}
    return [v for v in model.weights if id(v) not in left_out]


def pipeline_description(config: ConformerConfig, tokenizer, model: ConformerTransducer) -> dict:
    """Returns the content of `pipeline.json`: what converters, runners and servers read.

    Args:
        config: a `ConformerConfig`.
        tokenizer: a `conformer.tokenizer.Tokenizer`.
        model: a built model.
    """
    transducer = {} if model.joint is None else {"state_shape": [*model.prediction.state_shape]}
    if config.model.durations:
        transducer["durations"] = [*config.model.durations]
    language = {"language": config.tokenizer.language} if config.tokenizer.language else {}
    return {
        "family": "conformer",
        "kind": "transducer",
        "precision": precision_of_policy(model.dtype_policy.name),
        **language,
        "sample_rate_hz": config.features.sample_rate_hz,
        "min_seconds": config.data.min_seconds,
        "max_seconds": config.data.max_eval_seconds,
        "long_audio": _long_audio(config),
        "frame_step_ms": config.features.frame_step_ms,
        "num_mel_bins": config.features.num_mel_bins,
        "subsampling": config.model.subsampling_factor,
        "blank": BLANK,
        "head": config.decoding.head,
        "max_symbols_per_frame": config.decoding.max_symbols_per_frame,
        "blank_penalty": config.decoding.blank_penalty,
        **transducer,
        "searches": searches(config),
        "convert": _conversion(config),
        "vocabulary": {"kind": tokenizer.kind, "surfaces": list(tokenizer.surfaces)},
        "num_parameters": sum(math.prod(v.shape) for v in exported_weights(model, config)),
    }


def _long_audio(config: ConformerConfig) -> dict[str, float]:
    """Returns the lengths of the chunks of long recordings: the longest sound of training."""
    longest = min(config.data.max_seconds, config.data.max_eval_seconds, 60.0)
    return {"chunk_seconds": longest, "context_seconds": longest / 10}


def _conversion(config: ConformerConfig) -> dict[str, dict]:
    """Returns the signatures to convert, with options for the converter.

    `dim_range` holds the smallest and largest size of each dynamic dimension other than the batch.
    Layers in `keep_in_float` are not quantized: the power spectrum has a larger dynamic range than
    8 bits can represent, and the search compares the outputs of the CTC head directly. `small`
    means that one call is too short for several threads. `paddable` means that zeros after an input
    add frames to the output and change nothing else. A search passes up to `MAX_WINDOW` frames and
    one token of each row to `join_projected`.
    """
    rate_hz, window_ms = config.features.sample_rate_hz, config.features.frame_length_ms
    seconds = (window_ms / 1000, config.data.max_eval_seconds)
    samples = [round(bound * rate_hz) for bound in seconds]
    ctc_head = ["ctc_head"] if config.decoding.head == "ctc" else []
    listen = {
        "listen": {
            "dim_range": {"waveforms": [samples]},
            "keep_in_float": ["features", *ctc_head],
            "paddable": True,
        }
    }
    if not config.model.transducer:
        return listen
    return listen | {
        "predict": {"dim_range": {}, "small": True},
        "project": {"dim_range": {"encoded": [[1, MAX_WINDOW]]}, "small": True},
        "join_projected": {
            "dim_range": {
                "encoded_projection": [[1, MAX_WINDOW]],
                "predicted_projection": [[1, 1]],
            },
            "small": True,
        },
    }
