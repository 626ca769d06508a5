"""Weights of published Conformers: names and layouts of the tensors of Hugging Face and NeMo.

A published model numbers its symbols without the blank first and the blank last. In this project
the blank is symbol 0, so the rows of the embedding and of the output layers are reordered.

Source: transformers 5.23, `models/parakeet`; NeMo, `asr/modules` and `core/connectors`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from conformer.model import ConformerTransducer
from tools.weights.assignment import (
    AS_IS,
    CONVOLUTION_2D,
    DENSE,
    Assignment,
    Layout,
    Link,
    assign,
    permuted,
    rename,
)

# (pattern of the path of a variable, replacement in the name of a tensor)
_NAMES = (
    (r"^[^/]*/", ""),
    (r"/subsampling/projection/", "/subsampling/linear/"),
    (r"^encoder/block_(\d+)/", r"encoder/layers/\1/"),
    (r"/feedforward_0/", "/feed_forward1/"),
    (r"/feedforward_1/", "/feed_forward2/"),
    (r"(feed_forward\d)/expansion/", r"\1/linear1/"),
    (r"(feed_forward\d)/projection/", r"\1/linear2/"),
    (r"/attention/position/", "/self_attn/relative_k_proj/"),
    (r"/attention/output_projection/", "/self_attn/o_proj/"),
    (r"/attention/content_bias$", "/self_attn/bias_u"),
    (r"/attention/position_bias$", "/self_attn/bias_v"),
    (r"/convolution/expansion/", "/conv/pointwise_conv1/"),
    (r"/convolution/depthwise/", "/conv/depthwise_conv/"),
    (r"/convolution/normalization/", "/conv/norm/"),
    (r"/convolution/projection/", "/conv/pointwise_conv2/"),
    (r"/norm_feedforward_0/", "/norm_feed_forward1/"),
    (r"/norm_feedforward_1/", "/norm_feed_forward2/"),
    (r"/norm_attention/", "/norm_self_att/"),
    (r"/norm_convolution/", "/norm_conv/"),
    (r"/norm_output/", "/norm_out/"),
    (r"/moving_mean$", "/running_mean"),
    (r"/moving_variance$", "/running_var"),
    (r"^prediction/embedding/embeddings$", "decoder/embedding/weight"),
    (r"^joint/encoded_projection/", "encoder_projector/"),
    (r"^joint/predicted_projection/", "decoder/decoder_projector/"),
    (r"^joint/vocabulary_projection/", "joint/head/"),
    (r"/(kernel|gamma)$", "/weight"),
    (r"/beta$", "/bias"),
    ("/", "."),
)
# (pattern of a name in a .nemo archive, replacement in the name of Hugging Face)
NEMO_NAMES = (
    (r"^encoder\.pre_encode\.conv\.", "encoder.subsampling.layers."),
    (r"^encoder\.pre_encode\.out\.", "encoder.subsampling.linear."),
    (r"\.self_attn\.linear_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.self_attn\.linear_out\.", ".self_attn.o_proj."),
    (r"\.self_attn\.linear_pos\.", ".self_attn.relative_k_proj."),
    (r"\.self_attn\.pos_bias_([uv])$", r".self_attn.bias_\1"),
    (r"\.conv\.batch_norm\.", ".conv.norm."),
    (r"^decoder\.prediction\.embed\.", "decoder.embedding."),
    (r"^decoder\.prediction\.dec_rnn\.lstm\.", "decoder.lstm."),
    (r"^joint\.enc\.", "encoder_projector."),
    (r"^joint\.pred\.", "decoder.decoder_projector."),
    # The layer before has number 1 if the joint network has dropout.
    (r"^joint\.joint_net\.[12]\.", "joint.head."),
    (r"^(ctc_)?decoder\.decoder_layers\.0\.", "ctc_head."),
)
# Counters, front ends, position encodings, and what only training uses.
_IGNORED = (
    r".*\.num_batches_tracked|preprocessor\..*|encoder\.pos_enc\.pe|spec_augmentation\..*"
    r"|(.*\.)?_?(loss|wer|ctc_wer|ctc_loss)(\..*)?"
)
_VOCABULARY = r"(decoder\.embedding|joint\.head|ctc_head)\..*"
DEPTHWISE_2D = permuted(2, 3, 0, 1)  # [channels, 1, height, width]
POINTWISE_1D = Layout(lambda x: x[:, :, 0].T, lambda x: (x.T[:, :, None],))
# [channels, 1, time] in the file; [time, 1, channels, 1] in the model.
DEPTHWISE_1D = Layout(
    lambda x: x.transpose(2, 1, 0)[..., None], lambda x: (x[..., 0].transpose(2, 1, 0),)
)
# The two biases of PyTorch's LSTM are one here.
_LSTM_BIAS = Layout(lambda x, y: x + y, lambda x: (x, np.zeros_like(x)))
_JOINED_DENSE = Layout(
    lambda *x: np.concatenate(x).T, lambda x: tuple(part.T for part in np.split(x, 3, axis=1))
)
_JOINED_BIAS = Layout(lambda *x: np.concatenate(x), lambda x: tuple(np.split(x, 3)))


def load_published_weights(
    model: ConformerTransducer,
    tensors: Mapping[str, np.ndarray],
    blank: int,
    *,
    new_vocabulary: bool = False,
) -> Assignment:
    """Assigns the tensors of a published model to a model of the same architecture.

    Args:
        model: a built model.
        tensors: arrays by the names of Hugging Face; see `NEMO_NAMES` for those of NeMo.
        blank: index of the blank in the published vocabulary.
        new_vocabulary: whether the embedding and the output layers keep their initial values.

    Returns:
        The assigned and ignored names.

    Raises:
        UserError: tensors are missing, unexpected, of another shape, or not finite.
    """
    variables, ignored = model.weights, _IGNORED
    if new_vocabulary:
        variables = [x for x in variables if not _is_of_vocabulary(_path(x))]
        ignored = f"{_IGNORED}|{_VOCABULARY}"
    links = [_link(model, variable, blank) for variable in variables]
    return assign(variables, links, tensors, ignored)


def published_tensors(model: ConformerTransducer, blank: int) -> dict[str, np.ndarray]:
    """Returns the weights of a model by the names of Hugging Face.

    Args:
        model: a built model with the architecture of a published one.
        blank: index that the blank gets.
    """
    found: dict[str, np.ndarray] = {}
    for variable in model.weights:
        link = _link(model, variable, blank)
        parts = link.layout.write(np.asarray(variable))
        found.update(zip(link.keys, parts, strict=True))
    return found


def blank_first(blank: int, size: int) -> np.ndarray:
    """Returns published indices in this project's order: the blank, then the other symbols.

    Args:
        blank: index of the blank.
        size: number of symbols V.

    Returns:
        `[V]` integers.
    """
    return np.concatenate([[blank], np.delete(np.arange(size), blank)])


def _path(variable) -> str:
    """Returns the path of a variable below the model."""
    return variable.path.split("/", 1)[1]


def _is_of_vocabulary(path: str) -> bool:
    """Returns whether a variable has a row for each symbol."""
    return path.startswith(("prediction/embedding/", "joint/vocabulary_projection/", "ctc_head/"))


def _link(model: ConformerTransducer, variable, blank: int) -> Link:
    """Returns the tensors of a variable and their layout."""
    path = _path(variable)
    name = rename(variable.path, _NAMES)
    if path.startswith("encoder/subsampling/"):
        return Link(variable, *_subsampling(model, path, name))
    if "/query_key_value/" in path:
        layer = name.partition(".attention.")[0]
        end = name.rpartition(".")[2]
        keys = tuple(f"{layer}.self_attn.{x}_proj.{end}" for x in "qkv")
        return Link(variable, keys, _JOINED_DENSE if end == "weight" else _JOINED_BIAS)
    if "/lstm" in path:
        return Link(variable, *_lstm(path))
    if _is_of_vocabulary(path):
        layout = _reordered(blank_first(blank, model.vocabulary_size))
        if path.startswith("prediction/") or len(variable.shape) == 1:
            return Link(variable, (name,), layout)
        inner = POINTWISE_1D if path.startswith("ctc_head/") else DENSE
        return Link(variable, (name,), _after(layout, inner))
    if ".conv." in name and name.endswith(".weight") and ".norm." not in name:
        layout = DEPTHWISE_1D if ".depthwise_conv." in name else POINTWISE_1D
        return Link(variable, (name,), layout)
    is_kernel = path.endswith("/kernel")
    return Link(variable, (name,), DENSE if is_kernel else AS_IS)


def _subsampling(
    model: ConformerTransducer, path: str, name: str
) -> tuple[tuple[str, ...], Layout]:
    """Returns the name and layout of a variable of the subsampling."""
    subsampling = model.encoder.subsampling
    _, _, layer, kind = path.split("/")
    if layer == "projection":
        layout = _channel_major(subsampling.filters) if kind == "kernel" else AS_IS
        return (name,), layout
    operation, number = layer.split("_")
    # Activations have numbers, too: 0 convolution, 1 ReLU, 2 depthwise, 3 pointwise, 4 ReLU, ...
    index = (3 if subsampling.depthwise else 2) * int(number) - (operation == "depthwise")
    name = f"encoder.subsampling.layers.{index}.{'weight' if kind == 'kernel' else 'bias'}"
    if kind == "bias":
        return (name,), AS_IS
    return (name,), DEPTHWISE_2D if operation == "depthwise" else CONVOLUTION_2D


def _lstm(path: str) -> tuple[tuple[str, ...], Layout]:
    """Returns the names and layout of a variable of an LSTM; gates have the same order."""
    _, layer, _, kind = path.split("/")
    number = layer.partition("_")[2] or "0"
    if kind == "bias":
        keys = tuple(f"decoder.lstm.bias_{x}_l{number}" for x in ("ih", "hh"))
        return keys, _LSTM_BIAS
    return (f"decoder.lstm.weight_{'hh' if 'recurrent' in kind else 'ih'}_l{number}",), DENSE


def _channel_major(channels: int) -> Layout:
    """Returns the layout `[out, channels * bins]` to `[bins * channels, out]`."""

    def read(x):
        return x.reshape(len(x), channels, -1).transpose(2, 1, 0).reshape(-1, len(x))

    def write(x):
        x = x.reshape(-1, channels, x.shape[-1]).transpose(2, 1, 0)
        return (x.reshape(len(x), -1),)

    return Layout(read, write)


def _reordered(order: Sequence[int]) -> Layout:
    """Returns the layout whose first rows are in another order; further rows (durations) stay."""
    order = np.asarray(order)
    back = np.argsort(order)

    def in_order(x, rows):
        return np.concatenate([x[: len(rows)][rows], x[len(rows) :]])

    return Layout(lambda x: in_order(x, order), lambda x: (in_order(x, back),))


def _after(first: Layout, second: Layout) -> Layout:
    """Returns the layout that reads with `first`, then with `second`."""
    return Layout(lambda x: second.read(first.read(x)), lambda x: first.write(second.write(x)[0]))
