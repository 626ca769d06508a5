"""Exports speech Conformers with random weights that emit tokens at a given rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conformer.config import ConformerConfig
from tools.benchmark.paced import NUM_SYMBOLS, SEED, fitted, pace

if TYPE_CHECKING:
    from conformer.model import ConformerTransducer  # imports Keras

_ATTENTION = 0.1  # factor of the output of each attention module


def weaken_attention(blocks: Sequence) -> None:
    """Scales the attention of Conformer blocks with initial weights, so that frames stay different.

    This attention adds nearly the same vector to all frames. Behind 16 blocks, the frames of a loud
    and of a quiet sound would differ by less than the rounding errors of 8 bits.
    """
    for block in blocks:
        kernel = block.attention.output_projection.kernel
        kernel.assign(_ATTENTION * np.array(kernel))


def random_model(
    config: ConformerConfig,
    num_symbols: int,
    *,
    sound: Mapping[str, np.ndarray] | None = None,
    tokens: float = 0.0,
) -> "ConformerTransducer":
    """Returns a Conformer with random weights; see `tools.benchmark.paced`.

    Args:
        config: sizes of the model.
        num_symbols: number of symbols V.
        sound: result of `paced_sound`, at whose rate the model emits tokens. None: the first value
            of each encoded frame asks for the class of the token.
        tokens: number of tokens in a row of `sound`.
    """
    import keras

    from conformer.model import build_model

    keras.utils.set_random_seed(SEED)
    model = build_model(config, num_symbols)
    direction, offset = np.eye(model.encoder.hidden_dim, dtype=np.float32)[0], 0.0
    if sound is not None:
        weaken_attention(model.encoder.blocks)
        encoded, _ = model.listen(sound["waveforms"], sound["lengths"])
        direction, offset = fitted(np.array(encoded), tokens)
    prediction, joint = model.prediction, model.joint
    kernel, recurrent, bias = prediction.lstms[0].cell.weights
    variables = {
        "embeddings": prediction.embedding.embeddings,
        "kernel": kernel,
        "recurrent": recurrent,
        "bias": bias,
        "frame": joint.encoded_projection.kernel,
        "frame_bias": joint.encoded_projection.bias,
        "last": joint.predicted_projection.kernel,
        "output": joint.vocabulary_projection.kernel,
        "output_bias": joint.vocabulary_projection.bias,
    }

    def read(tokens):
        return np.array(model.predict(np.array(tokens, np.int32)[:, None])[0][:, 0])

    pace(variables, direction, offset, read)
    return model


def write_random_model(
    folder: Path,
    config: ConformerConfig | None = None,
    *,
    sound: Mapping[str, np.ndarray] | None = None,
    tokens: float = 0.0,
) -> None:
    """Exports the result of `random_model`.

    Args:
        folder: SavedModel to write.
        config: sizes of the model; None for Conformer-S.
        sound: see `random_model`.
        tokens: see `random_model`.
    """
    from conformer.config import load_config
    from conformer.signatures import Signatures, exported_weights, pipeline_description
    from conformer.tokenizer import CharacterTokenizer
    from tools.conversion.saved_model import write_saved_model

    config = load_config() if config is None else config
    letters = [chr(0x4E00 + number) for number in range(NUM_SYMBOLS - 2)]
    tokenizer = CharacterTokenizer(letters)
    model = random_model(config, tokenizer.vocabulary_size, sound=sound, tokens=tokens)
    signatures = Signatures(model, tokenizer.surfaces, config)
    description = pipeline_description(config, tokenizer, model)
    write_saved_model(folder, signatures.functions, exported_weights(model, config), description)
