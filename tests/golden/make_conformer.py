"""Makes `conformer.npz`: what the NumPy reference computes from weights and sounds kept beside it.

    python tests/golden/make_conformer.py

needs this project's environment: the model gives names and shapes of its weights, all values are
NumPy's. Make it anew only when the model is meant to change.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

OUTPUT = Path(__file__).with_name("conformer.npz")
VOCABULARY_SIZE = 7
# The front end and all else are those of the defaults.
OVERRIDES = {
    "model.num_layers": 2,
    "model.hidden_dim": 8,
    "model.num_heads": 2,
    "model.kernel_size": 4,
    "model.subsampling_filters": 4,
    "model.prediction_dim": 8,
    "model.joint_dim": 8,
    "model.dropout_rate": 0.0,
}
LENGTHS = (6001, 3200, 801)
LABELS = ([2, 5, 5, 1], [3], [])
# Chosen so that decoding gives several symbols, frames without any, and frames with too many.
SEED, JOINT_SCALE, BLANK_BIAS = 12, 3.0, 0.5


def build():
    """Builds the model that the weights belong to."""
    import conformer

    config = conformer.load_config(None, OVERRIDES)
    return conformer.build_model(config, VOCABULARY_SIZE)


def main() -> None:
    """Writes the file beside this program."""
    from tests.support import conformer_reference as reference

    rng = np.random.default_rng(SEED)
    weights = {}
    for variable in build().weights:
        path = variable.path.split("/", 1)[1]
        weight = reference.random_weight(path, variable.shape, rng)
        scale = JOINT_SCALE if path.startswith(("joint", "prediction/embedding")) else 1.0
        weights[path] = (scale * weight).astype("float32")
    weights["joint/vocabulary_projection/bias"][reference.BLANK] += BLANK_BIAS
    rng = np.random.default_rng(99)
    decay = [np.geomspace(1.0, 10.0**-power, n) for power, n in enumerate(LENGTHS)]
    sounds = [(rng.standard_normal(len(x)) * x).astype("float32") for x in decay]
    exact = {path: value.astype("float64") for path, value in weights.items()}

    arrays = {f"weights/{path}": value for path, value in weights.items()}
    for training in (False, True):
        mode = "training" if training else "evaluation"
        logits, moving = reference.transduce(exact, sounds, LABELS, training)
        for row, values in enumerate(logits):
            arrays[f"{mode}/logits_{row}"] = values.astype("float32")
            loss = reference.transducer_loss(values, LABELS[row])
            arrays[f"{mode}/loss_{row}"] = np.float64(loss)
        if training:
            arrays |= {f"moving/{path}": x.astype("float32") for path, x in moving.items()}
    for row, sound in enumerate(sounds):
        arrays[f"sounds/{row}"] = sound
        arrays[f"features/{row}"] = reference.log_mel_spectrogram(sound).astype("float32")
        tokens, log_probability = reference.greedy(exact, sound)
        arrays[f"tokens/{row}"] = np.array(tokens, "int32")
        arrays[f"log_probability/{row}"] = np.float64(log_probability)
    import keras
    import tensorflow as tf

    made_by = f"numpy=={np.__version__} keras=={keras.__version__} tensorflow=={tf.__version__}"
    np.savez_compressed(OUTPUT, made_by=np.array(made_by), **arrays)


if __name__ == "__main__":
    main()
