"""Published Conformers of full size with random weights, for `tools.benchmark.published`."""

from pathlib import Path

import numpy as np

from tools.benchmark.paced_conformer import weaken_attention
from tools.files import new_folder, to_json

RATE_HZ = 16000
SEED = 1
_TOKENS_PER_FRAME = 0.3  # as in speech: 12.5 frames and about 4 tokens a second
_EMBEDDING_SCALE = 20.0  # of the initial embedding, so that the last token matters
# Sizes of NVIDIA's models: keys of `config.json`.
SIZES = {
    "0.6b": {
        "encoder_config": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 8,
            "intermediate_size": 4096,
            "subsampling_conv_channels": 256,
            "num_mel_bins": 128,
            "attention_bias": False,
            "convolution_bias": False,
        },
        "decoder_hidden_size": 640,
        "num_decoder_layers": 2,
        "vocab_size": 1025,
    },
    "0.1b": {
        "encoder_config": {
            "hidden_size": 512,
            "num_hidden_layers": 17,
            "num_attention_heads": 8,
            "intermediate_size": 2048,
            "subsampling_conv_channels": 256,
            "num_mel_bins": 80,
        },
        "decoder_hidden_size": 640,
        "num_decoder_layers": 1,
        "vocab_size": 1025,
    },
    "tiny": {
        "encoder_config": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "subsampling_conv_channels": 4,
            "num_mel_bins": 80,
        },
        "decoder_hidden_size": 12,
        "num_decoder_layers": 1,
        "vocab_size": 33,
    },
}


def write_source(folder: Path, size: str) -> None:
    """Writes a TDT model with random weights as a folder of Hugging Face, unless it exists.

    The biases of the symbols and durations are set so that about 30 % of the frames begin a token,
    and all durations occur.

    Args:
        folder: folder to write.
        size: key of `SIZES`.
    """
    if folder.exists():
        return
    import keras

    from conformer.model import build_model
    from conformer.published_config import read_published_config
    from conformer.published_weights import published_tensors
    from tools.weights.files import write_safetensors

    keras.utils.set_random_seed(SEED)
    blank = SIZES[size]["vocab_size"] - 1
    with new_folder(folder) as place:
        for name, content in descriptions(size).items():
            (place / name).write_text(to_json(content))
        config = read_published_config(place).config
        model = build_model(config, blank + 1)
        _balance(model, len(config.model.durations))
        write_safetensors(place / "model.safetensors", published_tensors(model, blank))


def descriptions(size: str) -> dict[str, dict]:
    """Returns the content of the JSON files of a model by name.

    Args:
        size: key of `SIZES`.
    """
    blank = SIZES[size]["vocab_size"] - 1
    return {
        "config.json": _config(size),
        "tokenizer.json": _tokenizer(blank),
        "generation_config.json": {"decoder_start_token_id": blank},
    }


def made_sounds(count: int, seconds: float) -> np.ndarray:
    """Synthesizes noise `[N, S]` with the spectral tilt and the syllables of speech."""
    rng, size = np.random.default_rng(SEED), round(seconds * RATE_HZ)
    places = np.arange(0, size + RATE_HZ // 5, RATE_HZ // 5)
    tilt = 1.0 + np.fft.rfftfreq(size, 1 / RATE_HZ) / 500.0
    sounds = np.empty((count, size), np.float32)
    for row in sounds:
        noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) / tilt, size)
        loudness = np.interp(np.arange(size), places, rng.uniform(0.05, 1.0, len(places)))
        row[:] = 0.3 * noise * loudness / np.abs(noise).max()
    return sounds


def _config(size: str) -> dict:
    sizes = SIZES[size]
    encoder = {"model_type": "parakeet_encoder", "scale_input": False, **sizes["encoder_config"]}
    blank = sizes["vocab_size"] - 1
    return {
        **sizes,
        "model_type": "parakeet_tdt",
        "architectures": ["ParakeetForTDT"],
        "encoder_config": encoder,
        "durations": [0, 1, 2, 3, 4],
        "blank_token_id": blank,
        "pad_token_id": blank,
    }


def _tokenizer(blank: int) -> dict:
    """Returns a vocabulary of made-up pieces, every second of which begins a word."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = [f"{x}{y}" for x in letters for y in letters]
    pieces = ["<unk>", *(piece for text in texts for piece in (text, f"\u2581{text}"))][:blank]
    special = [(0, "<unk>"), (blank, "<blank>")]
    return {
        "added_tokens": [{"id": i, "content": x, "special": True} for i, x in special],
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": {text: number for number, text in enumerate(pieces)},
            "merges": [],
        },
    }


def _balance(model, num_durations: int) -> None:
    """Sets the biases of the output layer on a few seconds of sound."""
    weaken_attention(model.encoder.blocks)
    embeddings = model.prediction.embedding.embeddings
    embeddings.assign(_EMBEDDING_SCALE * np.asarray(embeddings))
    sound = made_sounds(1, 4.0)
    encoded, _ = model.listen(sound, np.array([sound.shape[1]]))
    predicted, _ = model.predict(np.zeros((1, 1), np.int32))
    logits = np.asarray(model.join(encoded, predicted))[0, :, 0]
    symbols, durations = np.split(logits, [-num_durations], axis=1)
    bias = np.asarray(model.joint.vocabulary_projection.bias).copy()
    gaps = symbols[:, 1:].max(axis=1) - symbols[:, 0]
    bias[0] += np.quantile(gaps, 1.0 - _TOKENS_PER_FRAME)
    bias[-num_durations:] -= durations.mean(axis=0)
    model.joint.vocabulary_projection.bias.assign(bias)
