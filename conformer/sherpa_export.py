"""Exports models as the ONNX files and the metadata that sherpa-onnx reads.

sherpa-onnx computes features of its own. They differ slightly from those of NeMo: other borders of
the frames, pre-emphasis within each frame, and for transducers another window and filters up to
7600 Hz. Its searches have the blank as the last symbol, take the index of a duration as the number
of frames, and emit at most 10 symbols in a frame, or 5 with durations.

Source: sherpa-onnx 2.0.1, `csrc/offline-transducer-nemo-model.cc`,
`csrc/offline-nemo-enc-dec-ctc-model.cc` and `csrc/features.h`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf

from conformer.config import ConformerConfig
from conformer.model import ConformerTransducer
from conformer.vocabulary import Tokenizer
from tools.conversion.onnx_export import write_function
from tools.errors import UserError
from tools.files import new_folder

TOKENS_FILE = "tokens.txt"
BLANK = "<blk>"
_SPACE = "\u2581"  # "▁", which sherpa-onnx shows as a space
_SEPARATORS = " \t\n\r\f\v"
_NEVER = -1e9  # logit of a number of frames that is none of the model's durations
# The front end of sherpa-onnx: values of the section `features`.
_FRONT_END = {
    "extractor": ("nemo",),
    "sample_rate_hz": (16000,),
    "frame_length_ms": (25.0,),
    "frame_step_ms": (10.0,),
    "fft_length": (512,),
    "num_mel_bins": (80, 128),
    "min_hz": (0.0,),
    "max_hz": (None, 8000.0),
    "preemphasis": (0.97,),
    "remove_dc_offset": (False,),
}
_NORMALIZATIONS = {"per_bin": "per_feature", "none": ""}
_Function = tf.types.experimental.PolymorphicFunction


def export_sherpa_onnx(
    model: ConformerTransducer, tokenizer: Tokenizer, config: ConformerConfig, output_dir: Path
) -> None:
    """Writes a model as files for sherpa-onnx. They are written completely or not at all.

    A transducer becomes `encoder.onnx`, `decoder.onnx`, `joiner.onnx` and `tokens.txt`, which
    sherpa-onnx opens as `nemo_transducer`. A model that decodes its CTC head becomes `model.onnx`
    and `tokens.txt`, which it opens as `nemo_ctc`. Weights of more than 1.9 GB are in a file
    `encoder.onnx.data` or `model.onnx.data`.

    Args:
        model: a built float32 model.
        tokenizer: its vocabulary.
        config: its configuration.
        output_dir: new folder, or an earlier export of this kind, which is replaced.

    Raises:
        UserError: sherpa-onnx has another front end, or cannot read a symbol of the vocabulary; or
            the folder holds something else, or cannot be written.
    """
    _check_front_end(config)
    tokens = _tokens(tokenizer)
    if output_dir.exists() and not (output_dir / TOKENS_FILE).is_file():
        raise UserError.expected(
            "an --output_dir that is new or an earlier export for sherpa-onnx",
            output_dir,
            "Choose another",
        )
    is_ctc = config.decoding.head == "ctc"
    metadata = _metadata(model, config)
    with new_folder(output_dir, replace=True) as folder:
        if is_ctc:
            outputs = ("logprobs", "lengths")
            write_function(_ctc(model), folder / "model.onnx", outputs=outputs, metadata=metadata)
        else:
            outputs = ("outputs", "encoded_lengths")
            write_function(
                _encoder(model), folder / "encoder.onnx", outputs=outputs, metadata=metadata
            )
            outputs = ("outputs", "prednet_lengths", "h_after", "c_after")
            write_function(_decoder(model), folder / "decoder.onnx", outputs=outputs)
            write_function(_joiner(model, config), folder / "joiner.onnx", outputs=("logits",))
        (folder / TOKENS_FILE).write_text(tokens, encoding="utf-8")


def _check_front_end(config: ConformerConfig) -> None:
    for key, values in _FRONT_END.items():
        value = getattr(config.features, key)
        if value not in values:
            known = " or ".join(str(x) for x in values if x is not None)
            raise UserError.expected(
                f"a model with the front end of sherpa-onnx (features.{key}: {known})",
                f"features.{key}: {value}",
                "Export a SavedModel, which contains the front end",
            )


def _tokens(tokenizer: Tokenizer) -> str:
    """Returns the content of `tokens.txt`: a symbol and its index in each line, the blank last."""
    symbols = []
    for piece, surface in zip(tokenizer.pieces[1:], tokenizer.surfaces[1:], strict=True):
        # Pieces of SentencePiece have marks for spaces and bytes; other vocabularies have texts.
        is_text = tokenizer.kind not in ("pieces", "sentencepiece")
        symbol = surface.replace(" ", _SPACE) if is_text and surface else piece
        if not symbol or set(symbol) & set(_SEPARATORS):
            raise UserError.expected(
                "a vocabulary without white space in its symbols, which sherpa-onnx cannot read",
                repr(symbol),
                "Export a SavedModel",
            )
        symbols.append(symbol)
    return "".join(f"{symbol} {index}\n" for index, symbol in enumerate([*symbols, BLANK]))


def _metadata(model: ConformerTransducer, config: ConformerConfig) -> Mapping[str, object]:
    features, is_ctc = config.features, config.decoding.head == "ctc"
    found = {
        "vocab_size": model.vocabulary_size - 1,  # without the blank
        "subsampling_factor": config.model.subsampling_factor,
        "normalize_type": _NORMALIZATIONS[features.normalization],
        "feat_dim": features.num_mel_bins,
        "model_type": "EncDecCTCModelBPE" if is_ctc else "EncDecRNNTBPEModel",
        "model_author": "conformer-zoo",
        "version": 1,
    }
    if is_ctc:
        return found
    num_states, width = model.prediction.state_shape
    kind = "tdt" if config.model.durations else "rnnt"  # "tdt" in the URL makes the difference
    return found | {
        "pred_rnn_layers": num_states // 2,
        "pred_hidden": width,
        "url": f"conformer-zoo/{kind}",
    }


def _signature(function: Callable, **specs) -> _Function:
    """Returns a `tf.function` with inputs of these dtypes and shapes."""
    tensors = [tf.TensorSpec(shape, dtype, name) for name, (dtype, *shape) in specs.items()]
    return tf.function(function, input_signature=tensors, autograph=False)


def _features(model: ConformerTransducer) -> dict[str, tuple]:
    bins = model.features.num_mel_bins
    return {"audio_signal": (tf.float32, None, bins, None), "length": (tf.int64, None)}


def _encode(model: ConformerTransducer, audio_signal, length):
    features = tf.transpose(audio_signal, [0, 2, 1])
    encoded, lengths = model.encode(features, tf.cast(length, tf.int32))
    return encoded, tf.cast(lengths, tf.int64)


def _encoder(model: ConformerTransducer) -> _Function:
    def encoder(audio_signal, length):
        encoded, lengths = _encode(model, audio_signal, length)
        return {"outputs": tf.transpose(encoded, [0, 2, 1]), "encoded_lengths": lengths}

    return _signature(encoder, **_features(model))


def _ctc(model: ConformerTransducer) -> _Function:
    def ctc(audio_signal, length):
        encoded, lengths = _encode(model, audio_signal, length)
        logits = tf.nn.log_softmax(model.ctc_head(encoded))
        return {"logprobs": tf.roll(logits, -1, axis=-1), "lengths": lengths}

    return _signature(ctc, **_features(model))


def _decoder(model: ConformerTransducer) -> _Function:
    """Returns the prediction network; `h` and `c` are the halves of its states."""
    num_states, width = model.prediction.state_shape
    state = (tf.float32, num_states // 2, None, width)

    def decoder(targets, target_length, h, c):
        batch = tf.shape(targets)[0]
        states = tf.transpose(tf.stack([h, c], axis=1), [2, 0, 1, 3])
        tokens = tf.math.floormod(targets + 1, model.vocabulary_size)  # the blank comes first here
        predicted, after = model.predict(tokens, tf.reshape(states, [batch, num_states, width]))
        after = tf.reshape(after, [batch, num_states // 2, 2, width])
        h, c = tf.unstack(tf.transpose(after, [2, 1, 0, 3]))
        predicted = tf.transpose(predicted, [0, 2, 1])
        lengths = tf.identity(target_length)
        return {"outputs": predicted, "prednet_lengths": lengths, "h_after": h, "c_after": c}

    lengths = {"targets": (tf.int32, None, 1), "target_length": (tf.int32, None)}
    return _signature(decoder, **lengths, h=state, c=state)


def _joiner(model: ConformerTransducer, config: ConformerConfig) -> _Function:
    """Returns the joint network, with a logit for each number of frames up to the last duration."""
    size, durations = model.vocabulary_size, config.model.durations
    frames = range(durations[-1] + 1) if durations else ()
    missing = size + len(durations)  # place of a logit that never wins
    order = [*range(1, size), 0]
    order += [size + durations.index(x) if x in durations else missing for x in frames]

    def joiner(encoder_outputs, decoder_outputs):
        encoded, predicted = (
            tf.transpose(x, [0, 2, 1]) for x in (encoder_outputs, decoder_outputs)
        )
        logits = model.join(encoded, predicted)
        if missing in order:
            edges = [[0, 0], [0, 0], [0, 0], [0, 1]]
            logits = tf.pad(logits, edges, constant_values=_NEVER)
        return {"logits": tf.gather(logits, order, axis=-1)}

    return _signature(
        joiner,
        encoder_outputs=(tf.float32, None, model.encoder.hidden_dim, 1),
        decoder_outputs=(tf.float32, None, model.prediction.state_shape[-1], 1),
    )
