"""Makes `wav2vec2.npz`: what transformers' Wav2Vec2ForCTC computes from weights made by formula.

    python tests/golden/make_wav2vec2.py

needs torch and transformers, the extra `peers`. A weight is `weight(name, shape)` below, in the
naming of the peer. Each utterance is computed alone, at three depths, and then both as one batch
with zeros behind the shorter one and no mask, as group norm is run there.
"""

import zlib
from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).with_name("wav2vec2.npz")
SIZES = {
    "conv_dim": [16] * 7,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
}
LAYER = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
VARIANTS = {"group": SIZES, "layer": SIZES | LAYER}
LENGTHS = (6000, 4321)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight from its name: scales and gains around 1, products divided by their fan-in."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1 and not name.endswith("original0"):
        return (draw * np.prod(shape[1:]) ** -0.5).astype(np.float32)
    scales = name.endswith(("norm.weight", "original0"))
    return (0.1 * draw + scales).astype(np.float32)


def waveforms() -> np.ndarray:
    """Two made-up waveforms, `[2, 6000]`, the second one zero behind its length."""
    draw = np.random.default_rng(0).standard_normal((2, LENGTHS[0])).astype(np.float32)
    draw[1, LENGTHS[1] :] = 0.0
    return draw


def _outputs(sizes: dict) -> dict[str, np.ndarray]:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    model = Wav2Vec2ForCTC(Wav2Vec2Config(**sizes)).eval()
    batch, kept = torch.from_numpy(waveforms()), {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
        for index, length in enumerate(LENGTHS):
            alone = batch[index : index + 1, :length]
            features = model.wav2vec2.feature_extractor(alone)[0]
            kept[f"features_{index}"] = features.T.numpy()
            kept[f"encoded_{index}"] = model.wav2vec2(alone).last_hidden_state[0].numpy()
            kept[f"logits_{index}"] = model(alone).logits[0].numpy()
        kept["unmasked_logits"] = model(batch).logits.numpy()
    return kept


def main() -> None:
    """Writes the file beside this program."""
    import torch
    import transformers

    arrays = {
        f"{variant}/{name}": value
        for variant, sizes in VARIANTS.items()
        for name, value in _outputs(sizes).items()
    }
    packages = {"transformers": transformers, "torch": torch, "numpy": np}
    made_by = " ".join(f"{name}=={package.__version__}" for name, package in packages.items())
    np.savez_compressed(OUTPUT, made_by=np.array(made_by), **arrays)


if __name__ == "__main__":
    main()
