"""Tiny published Conformers with random weights, and what they compute, in NumPy and float64.

Written from the papers and the formats, not from the code: names and shapes of the tensors are
those of transformers 5.23 (`models/parakeet`), the front end is that of NeMo. An utterance is
computed alone, so there is no padding and no mask anywhere.
"""

import gzip
import io
import json
import tarfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from tests.support import pickles
from tests.support.conformer_reference import (
    lstm_step,
    mel_filters,
    sigmoid,
    sinusoids,
    softmax,
    swish,
)
from tools.weights.files import write_safetensors

Tensors = Mapping[str, np.ndarray]
PIECES = ["<unk>", *"\u2581etaoinsrhdlu", "\u2581t", "th", "in", "\u2581th", "er", "\u2581in"]
MERGES = [["\u2581", "t"], ["t", "h"], ["i", "n"], ["\u2581t", "h"], ["e", "r"], ["\u2581", "in"]]


@dataclass(frozen=True)
class Sizes:
    """Architecture of a published model; the defaults are a tiny Parakeet."""

    kind: str = "tdt"  # ctc, rnnt or tdt
    mels: int = 24
    factor: int = 8
    depthwise: bool = True
    channels: int = 3
    width: int = 8
    heads: int = 2
    feedforward: int = 10
    kernel: int = 5
    layers: int = 2
    bias: bool = False
    scale: bool = False
    norm: str = "batch"
    lstm: int = 6
    lstms: int = 2
    durations: tuple[int, ...] = (0, 1, 2, 4)

    @property
    def vocabulary(self) -> int:
        """Number of symbols with the blank, which is the last one."""
        return len(PIECES) + 1


def make_tensors(sizes: Sizes, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws tensors of a model by the names of Hugging Face."""
    tensors: dict[str, np.ndarray] = {}

    def draw(name, *shape, bias=True, at=0.0, scale=None):
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
        scale = (1.4 * fan_in**-0.5 if len(shape) > 1 else 0.3) if scale is None else scale
        tensors[f"{name}.weight"] = at + scale * rng.standard_normal(shape)
        if bias:
            tensors[f"{name}.bias"] = 0.3 * rng.standard_normal(shape[:1])

    c, d, bins, index = sizes.channels, sizes.width, sizes.mels, 0
    for stage in range(sizes.factor.bit_length() - 1):
        place, bins = f"encoder.subsampling.layers.{index}", -(-bins // 2)
        if stage and sizes.depthwise:
            draw(place, c, 1, 3, 3)
            draw(f"encoder.subsampling.layers.{index + 1}", c, c, 1, 1)
            index += 3
        else:
            draw(place, c, c if stage else 1, 3, 3)
            index += 2
    draw("encoder.subsampling.linear", d, c * bins)
    for number in range(sizes.layers):
        layer = f"encoder.layers.{number}"
        for half in (1, 2):
            draw(f"{layer}.feed_forward{half}.linear1", sizes.feedforward, d, bias=sizes.bias)
            draw(f"{layer}.feed_forward{half}.linear2", d, sizes.feedforward, bias=sizes.bias)
        for x in "qkvo":
            draw(f"{layer}.self_attn.{x}_proj", d, d, bias=sizes.bias)
        draw(f"{layer}.self_attn.relative_k_proj", d, d, bias=False)
        for x in "uv":
            shape = (sizes.heads, d // sizes.heads)
            tensors[f"{layer}.self_attn.bias_{x}"] = rng.standard_normal(shape)
        draw(f"{layer}.conv.pointwise_conv1", 2 * d, d, 1, bias=sizes.bias)
        draw(f"{layer}.conv.depthwise_conv", d, 1, sizes.kernel, bias=sizes.bias)
        draw(f"{layer}.conv.norm", d, at=1.0)
        if sizes.norm == "batch":
            tensors[f"{layer}.conv.norm.running_mean"] = 0.3 * rng.standard_normal(d)
            tensors[f"{layer}.conv.norm.running_var"] = np.exp(0.3 * rng.standard_normal(d))
            tensors[f"{layer}.conv.norm.num_batches_tracked"] = np.array(7)
        draw(f"{layer}.conv.pointwise_conv2", d, d, 1, bias=sizes.bias)
        for norm in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
            draw(f"{layer}.norm_{norm}", d, at=1.0)
    if sizes.kind == "ctc":
        draw("ctc_head", sizes.vocabulary, d, 1)
    else:
        h = sizes.lstm
        draw("encoder_projector", h, d)
        draw("decoder.embedding", sizes.vocabulary, h, bias=False, scale=0.7)
        for number in range(sizes.lstms):
            for x in ("ih", "hh"):
                tensors[f"decoder.lstm.weight_{x}_l{number}"] = rng.standard_normal((4 * h, h))
                tensors[f"decoder.lstm.bias_{x}_l{number}"] = 0.3 * rng.standard_normal(4 * h)
        draw("decoder.decoder_projector", h, h)
        extra = len(sizes.durations) if sizes.kind == "tdt" else 0
        draw("joint.head", sizes.vocabulary + extra, h)
    return {
        k: x if x.dtype.kind == "i" else x.astype(np.float32).copy() for k, x in tensors.items()
    }


def hugging_face_config(sizes: Sizes) -> dict:
    """Returns the content of `config.json`."""
    encoder = {
        "model_type": "parakeet_encoder",
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.feedforward,
        "attention_bias": sizes.bias,
        "convolution_bias": sizes.bias,
        "conv_kernel_size": sizes.kernel,
        "subsampling_factor": sizes.factor,
        "subsampling_conv_channels": sizes.channels,
        "num_mel_bins": sizes.mels,
        "scale_input": sizes.scale,
    }
    content = {
        "model_type": f"parakeet_{sizes.kind}",
        "vocab_size": sizes.vocabulary,
        "encoder_config": encoder,
    }
    blank = sizes.vocabulary - 1
    if sizes.kind == "ctc":
        return content | {"pad_token_id": blank}
    content |= {"blank_token_id": blank, "pad_token_id": 2, "decoder_hidden_size": sizes.lstm}
    content |= {"num_decoder_layers": sizes.lstms, "max_symbols_per_step": 3}
    return content | ({"durations": [*sizes.durations]} if sizes.kind == "tdt" else {})


def tokenizer_json(sizes: Sizes) -> dict:
    """Returns the content of `tokenizer.json`: BPE, with the blank as an added token."""
    special = [(0, "<unk>"), (sizes.vocabulary - 1, "<blank>")]
    return {
        "added_tokens": [{"id": i, "content": text, "special": True} for i, text in special],
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": {text: i for i, text in enumerate(PIECES)},
            "merges": MERGES,
        },
    }


def write_folder(folder: Path, sizes: Sizes, tensors: Tensors) -> Path:
    """Writes a folder as transformers saves it, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hugging_face_config(sizes)))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(sizes)))
    extractor = {"feature_size": sizes.mels, "preemphasis": 0.97}
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": extractor}))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


# (name of Hugging Face, name of NeMo)
_NEMO = (
    ("encoder.subsampling.layers.", "encoder.pre_encode.conv."),
    ("encoder.subsampling.linear.", "encoder.pre_encode.out."),
    ("q_proj", "linear_q"),
    ("k_proj", "linear_k"),
    ("v_proj", "linear_v"),
    ("o_proj", "linear_out"),
    ("relative_linear_k", "linear_pos"),
    ("bias_u", "pos_bias_u"),
    ("bias_v", "pos_bias_v"),
    ("conv.norm.", "conv.batch_norm."),
    ("decoder.embedding.", "decoder.prediction.embed."),
    ("decoder.lstm.", "decoder.prediction.dec_rnn.lstm."),
    ("decoder.decoder_projector.", "joint.pred."),
    ("encoder_projector.", "joint.enc."),
    ("joint.head.", "joint.joint_net.2."),
    ("ctc_head.", "decoder.decoder_layers.0."),
)


def nemo_config(sizes: Sizes) -> dict:
    """Returns the content of `model_config.yaml`."""
    target = "nemo.collections.asr.modules."
    content = {
        "preprocessor": {
            "_target_": f"{target}AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": sizes.mels,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": f"{target}ConformerEncoder",
            "feat_in": sizes.mels,
            "n_layers": sizes.layers,
            "d_model": sizes.width,
            "subsampling": "dw_striding" if sizes.depthwise else "striding",
            "subsampling_factor": sizes.factor,
            "self_attention_model": "rel_pos",
            "att_context_size": [-1, -1],
            "xscaling": sizes.scale,
            "conv_norm_type": f"{sizes.norm}_norm",
        },
        "tokenizer": {"type": "bpe", "model_path": "nemo:0a1b_tokenizer.model"},
    }
    if sizes.kind != "ctc":
        content["joint"] = {"jointnet": {"joint_hidden": sizes.lstm, "activation": "relu"}}
        content["decoding"] = {"greedy": {"max_symbols": 3}}
    if sizes.kind == "tdt":
        content["model_defaults"] = {"tdt_durations": [*sizes.durations]}
    return content


def nemo_members(sizes: Sizes, tensors: Tensors, tokenizer: bytes, folder: Path) -> dict:
    """Returns the bytes of the files of a `.nemo` archive by name.

    Args:
        sizes: the architecture.
        tensors: arrays by the names of Hugging Face.
        tokenizer: a SentencePiece model.
        folder: place for a temporary file.
    """
    named = {"preprocessor.featurizer.fb": np.zeros((2, 2), "f4")}
    for name, x in tensors.items():
        name = name.replace("relative_k_proj", "relative_linear_k")
        for ours, theirs in _NEMO:
            name = name.replace(ours, theirs)
        named[name] = x
    content, storages = OrderedDict(), {}
    for number, (name, x) in enumerate(named.items()):
        kind = "Long" if x.dtype.kind == "i" else "Float"
        storages[str(number)] = x = np.array(x, order="C")
        strides = tuple(n // x.itemsize for n in x.strides)
        content[name] = pickles.tensor(kind, str(number), x.size, x.shape, strides)
    pickles.save(folder / "weights.ckpt", content, storages)
    return {
        "model_config.yaml": yaml.safe_dump(nemo_config(sizes)).encode(),
        "model_weights.ckpt": (folder / "weights.ckpt").read_bytes(),
        "0a1b_tokenizer.model": tokenizer,
    }


def write_nemo(path: Path, members: Mapping[str, bytes], *, compressed: bool = False) -> Path:
    """Writes a `.nemo` archive and returns its path."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    content = stream.getvalue()
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
    return path


def features(waveform: np.ndarray, mels: int, normalized: bool = True) -> np.ndarray:
    """Features `[S // 160, F]` of a waveform `[S]` at 16 kHz."""
    x = np.asarray(waveform, "float64")
    x = np.concatenate([x[:1], x[1:] - 0.97 * x[:-1]])
    padded = np.pad(x, 256)
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399), 56)
    frames = [padded[160 * n : 160 * n + 512] * window for n in range(len(x) // 160)]
    power = np.abs(np.fft.rfft(np.stack(frames))) ** 2
    logarithms = np.log(power @ mel_filters(16000, 512, mels, 0.0, 8000.0) + 2.0**-24)
    if not normalized:
        return logarithms
    centred = logarithms - logarithms.mean(axis=0)
    return centred / (np.sqrt((centred**2).sum(axis=0) / (len(centred) - 1)) + 1e-5)


def _linear(p: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    weight = p[f"{name}.weight"]
    return x @ weight.reshape(weight.shape[:2]).T + p.get(f"{name}.bias", 0.0)


def _norm(p: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return centred / deviation * p[f"{name}.weight"] + p[f"{name}.bias"]


def _strided(p: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    """A 3x3 convolution with stride 2 of `[T, F, C]`; depthwise if it has one input channel."""
    weight = p[f"{name}.weight"]
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
    rows, columns = -(-x.shape[0] // 2), -(-x.shape[1] // 2)
    out = np.zeros((rows, columns, len(weight))) + p[f"{name}.bias"]
    for i, j in np.ndindex(3, 3):
        part, tap = padded[i : i + 2 * rows : 2, j : j + 2 * columns : 2], weight[:, :, i, j]
        out += part * tap[:, 0] if x.shape[2] != tap.shape[1] else part @ tap.T
    return out


def encode(tensors: Tensors, sizes: Sizes, x: np.ndarray) -> np.ndarray:
    """Features `[T, F]` to `[ceil(T / factor), D]`."""
    p = {name: np.asarray(value, "float64") for name, value in tensors.items()}
    x, index = x[:, :, None], 0
    for stage in range(sizes.factor.bit_length() - 1):
        x = _strided(p, f"encoder.subsampling.layers.{index}", x)
        index += 2
        if stage and sizes.depthwise:
            x = _linear(p, f"encoder.subsampling.layers.{index - 1}", x)
            index += 1
        x = np.maximum(x, 0.0)
    x = _linear(p, "encoder.subsampling.linear", x.transpose(0, 2, 1).reshape(len(x), -1))
    x = x * np.sqrt(sizes.width) if sizes.scale else x
    for number in range(sizes.layers):
        x = _block(p, f"encoder.layers.{number}", x, sizes.heads)
    return x


def _block(p: Tensors, name: str, x: np.ndarray, heads: int) -> np.ndarray:
    def feed_forward(half, x):
        inner = swish(_linear(p, f"{name}.{half}.linear1", x))
        return _linear(p, f"{name}.{half}.linear2", inner)

    x = x + feed_forward("feed_forward1", _norm(p, f"{name}.norm_feed_forward1", x)) / 2
    x = x + _attention(p, f"{name}.self_attn", _norm(p, f"{name}.norm_self_att", x), heads)
    x = x + _convolution(p, f"{name}.conv", _norm(p, f"{name}.norm_conv", x))
    x = x + feed_forward("feed_forward2", _norm(p, f"{name}.norm_feed_forward2", x)) / 2
    return _norm(p, f"{name}.norm_out", x)


def _attention(p: Tensors, name: str, x: np.ndarray, heads: int) -> np.ndarray:
    frames, width = x.shape
    q, k, v = (
        _linear(p, f"{name}.{n}_proj", x).reshape(frames, heads, -1).transpose(1, 0, 2)
        for n in "qkv"
    )
    offsets = np.arange(frames)[:, None] - np.arange(frames)
    r = _linear(p, f"{name}.relative_k_proj", sinusoids(offsets, width))
    r = r.reshape(frames, frames, heads, -1)
    content = np.einsum("hid,hjd->hij", q + p[f"{name}.bias_u"][:, None], k)
    position = np.einsum("hid,ijhd->hij", q + p[f"{name}.bias_v"][:, None], r)
    context = softmax((content + position) / np.sqrt(width // heads)) @ v
    return _linear(p, f"{name}.o_proj", context.transpose(1, 0, 2).reshape(frames, width))


def _convolution(p: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    values, gates = np.split(_linear(p, f"{name}.pointwise_conv1", x), 2, axis=-1)
    x = values * sigmoid(gates)
    kernel = p[f"{name}.depthwise_conv.weight"][:, 0]
    padded = np.pad(x, [(kernel.shape[1] // 2,) * 2, (0, 0)])
    x = sum(padded[n : n + len(x)] * kernel[:, n] for n in range(kernel.shape[1]))
    x = x + p.get(f"{name}.depthwise_conv.bias", 0.0)
    if f"{name}.norm.running_mean" in p:
        x = (x - p[f"{name}.norm.running_mean"]) / np.sqrt(p[f"{name}.norm.running_var"] + 1e-5)
        x = x * p[f"{name}.norm.weight"] + p[f"{name}.norm.bias"]
    else:
        x = _norm(p, f"{name}.norm", x)
    return _linear(p, f"{name}.pointwise_conv2", swish(x))


class Predictor:
    """The LSTM layers of a transducer, one token after the other."""

    def __init__(self, tensors: Tensors):
        self.p = {name: np.asarray(value, "float64") for name, value in tensors.items()}
        count = sum(name.startswith("decoder.lstm.weight_ih_l") for name in tensors)
        width = self.p["decoder.embedding.weight"].shape[1]
        self.states = [(np.zeros(width), np.zeros(width))] * count

    def __call__(self, token: int) -> np.ndarray:
        """Returns the output `[P]` of the projection after a token."""
        x = self.p["decoder.embedding.weight"][token]
        for number, state in enumerate(self.states):
            weights = {
                "kernel": self.p[f"decoder.lstm.weight_ih_l{number}"].T,
                "recurrent_kernel": self.p[f"decoder.lstm.weight_hh_l{number}"].T,
                "bias": self.p[f"decoder.lstm.bias_ih_l{number}"]
                + self.p[f"decoder.lstm.bias_hh_l{number}"],
            }
            self.states[number] = lstm_step(weights, x, state)
            x = self.states[number][0]
        return _linear(self.p, "decoder.decoder_projector", x)


def join(tensors: Tensors, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Logits of a frame `[D]` and an output `[P]` of the predictor, symbols in published order."""
    p = {name: np.asarray(value, "float64") for name, value in tensors.items()}
    joined = np.maximum(_linear(p, "encoder_projector", encoded) + predicted, 0.0)
    return _linear(p, "joint.head", joined)


def greedy(
    tensors: Tensors, sizes: Sizes, encoded: np.ndarray, max_symbols: int
) -> list[tuple[int, int, int]]:
    """Returns (token, frame, duration) of each symbol that greedy search writes."""
    predictor, blank, found = Predictor(tensors), sizes.vocabulary - 1, []
    predicted, frame, symbols = predictor(blank), 0, 0
    while frame < len(encoded):
        logits = join(tensors, encoded[frame], predicted)
        token = int(logits[: blank + 1].argmax())
        if sizes.kind == "tdt":
            duration = sizes.durations[int(logits[blank + 1 :].argmax())]
        else:
            duration = int(token == blank)
        if token != blank:
            found.append((token, frame, duration))
            predicted = predictor(token)
            symbols += 1
        must_move = token == blank or symbols >= max_symbols
        step = max(duration, int(must_move))
        frame, symbols = frame + step, 0 if step else symbols
    return found


def ctc_logits(tensors: Tensors, encoded: np.ndarray) -> np.ndarray:
    """Logits `[T, V]` of frames `[T, D]`, in published order."""
    p = {name: np.asarray(value, "float64") for name, value in tensors.items()}
    return _linear(p, "ctc_head", encoded)


def in_own_order(logits: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Returns logits with the blank first, as the project orders symbols."""
    blank = sizes.vocabulary - 1
    order: Sequence[int] = [blank, *range(blank), *range(blank + 1, logits.shape[-1])]
    return logits[..., order]
