"""Exports speech Conformers with random weights that emit tokens at a given rate."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from conformer.config import ConformerConfig
from tools.benchmark.paced import NUM_SYMBOLS, SEED, fitted, pace


def write_random_model(
    folder: Path,
    config: ConformerConfig | None = None,
    *,
    sound: Mapping[str, np.ndarray] | None = None,
    tokens: float = 0.0,
) -> None:
    """Exports a Conformer-S with random weights; see `tools.benchmark.paced`.

    Args:
        folder: SavedModel to write.
        config: sizes of the model; None for Conformer-S.
        sound: result of `paced_sound`, at whose rate the model emits tokens. None: the first value
            of each encoded frame asks for the class of the token.
        tokens: number of tokens in a row of `sound`.
    """
    import keras

    from conformer.config import load_config
    from conformer.model import build_model
    from conformer.signatures import Signatures, exported_weights, pipeline_description
    from conformer.tokenizer import CharacterTokenizer
    from tools.conversion.saved_model import write_saved_model

    keras.utils.set_random_seed(SEED)
    config = load_config() if config is None else config
    letters = [chr(0x4E00 + number) for number in range(NUM_SYMBOLS - 2)]
    tokenizer = CharacterTokenizer(letters)
    model = build_model(config, tokenizer.vocabulary_size)
    direction, offset = np.eye(model.encoder.hidden_dim, dtype=np.float32)[0], 0.0
    if sound is not None:
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
    signatures = Signatures(model, tokenizer.surfaces, config)
    description = pipeline_description(config, tokenizer, model)
    write_saved_model(folder, signatures.functions, exported_weights(model, config), description)
