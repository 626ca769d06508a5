"""Conversion of weights from and to PyTorch: pengzhiliang/Conformer (official) and mmpretrain."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tools.errors import UserError
from tools.weights.assignment import (
    AS_IS,
    CONVOLUTION_2D,
    DENSE,
    POINTWISE_2D,
    Assignment,
    Layout,
    Link,
    assign,
    extract,
    rename,
)
from tools.weights.files import read_weights, write_safetensors
from tools.weights.state_dict import StateDict, state_dict
from vision.model import VisionConformer

logger = logging.getLogger(__name__)

# (pattern of the path of a variable, official name)
_OFFICIAL = (
    (r"^[^/]*/", ""),
    (r"/(kernel|gamma)$", ".weight"),
    (r"/(bias|beta)$", ".bias"),
    (r"/moving_mean$", ".running_mean"),
    (r"/moving_variance$", ".running_var"),
    (r"^class_token$", "cls_token"),
    (r"^stem/convolution", "conv1"),
    (r"^stem/normalization", "bn1"),
    (r"^patch_embedding", "trans_patch_conv"),
    (r"^final_norm", "trans_norm"),
    (r"^convolution_head", "conv_cls_head"),
    (r"^transformer_head", "trans_cls_head"),
    (r"^convolution_1/", "conv_1."),
    (r"^transformer_1/", "trans_1."),
    (r"^coupled_(\d+)/", r"conv_trans_\1."),
    (r"\.convolution/", ".cnn_block."),
    (r"\.fusion/", ".fusion_block."),
    (r"\.transformer/", ".trans_block."),
    (r"\.down/projection", ".squeeze_block.conv_project"),
    (r"\.down/normalization", ".squeeze_block.ln"),
    (r"\.up/projection", ".expand_block.conv_project"),
    (r"\.up/normalization", ".expand_block.bn"),
    (r"residual/convolution", "residual_conv"),
    (r"residual/normalization", "residual_bn"),
    (r"reduce/", "1/"),
    (r"spatial/", "2/"),
    (r"expand/", "3/"),
    (r"(\d)/convolution", r"conv\1"),
    (r"(\d)/normalization", r"bn\1"),
    (r"attention_norm", "norm1"),
    (r"feedforward_norm", "norm2"),
    (r"attention/query_key_value", "attn.qkv"),
    (r"attention/output_projection", "attn.proj"),
    (r"expansion", "mlp.fc1"),
    (r"contraction", "mlp.fc2"),
)
_TO_MMPRETRAIN = (
    (r"\.norm([12])\.", r".ln\1."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^(?!(conv|trans)_cls_head\.)", "backbone."),
    (r"^(?=(conv|trans)_cls_head\.)", "head."),
)
_FROM_MMPRETRAIN = (
    (r"^(backbone|head)\.", ""),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
_BATCHES_TRACKED = ".num_batches_tracked"
_IGNORED = r".*\.num_batches_tracked"
_HEADS = r"(conv|trans)_cls_head\.(weight|bias)"


def load_pytorch_weights(
    model: VisionConformer,
    source: str | os.PathLike | Mapping[str, Any],
    use_ema: bool | None = None,
) -> Assignment:
    """Loads weights of the official implementation or of mmpretrain into a model.

    Heads with another number of classes keep their initial values, and a message is logged. The
    prefix `module.` of distributed training is removed.

    Args:
        model: a built model.
        source: file of `torch.save` or `.safetensors` file, or its content: arrays by name,
            directly or under a key such as `model` or `state_dict`.
        use_ema: whether to load the moving average (EMA) of the weights; None loads it only if
            there are no other weights.

    Returns:
        The assigned, kept and ignored names.

    Raises:
        UserError: the file cannot be read, or the names or shapes in it are not those of this
            architecture.
    """
    content = source if isinstance(source, Mapping) else read_weights(source)
    found = state_dict(content, use_ema)
    if found.is_ema or found.has_both:
        logger.warning("%s", _choice(found))
    tensors = _official_names(found.tensors)
    report = assign(model.weights, _links(model), tensors, _IGNORED, replaceable=_HEADS)
    logger.info(
        "%d variables loaded, %d kept, %d tensors ignored",
        *(len(x) for x in (report.assigned, report.kept, report.ignored)),
    )
    return report


def pytorch_state_dict(model: VisionConformer, naming: str = "official") -> dict[str, np.ndarray]:
    """Returns the weights for `load_state_dict(strict=True)` of the PyTorch implementation.

    Args:
        model: a built model.
        naming: `official` or `mmpretrain`.

    Returns:
        Arrays by name. The batch counters of PyTorch's batch norm (`num_batches_tracked`) are 0.

    Raises:
        UserError: the naming is unknown.
    """
    if naming not in ("official", "mmpretrain"):
        raise UserError.expected("naming official or mmpretrain", naming, "Correct the naming")
    tensors = extract(_links(model))
    counters = [x for x in tensors if x.endswith(".running_var")]
    tensors |= {
        x.replace(".running_var", _BATCHES_TRACKED): np.zeros((), np.int64) for x in counters
    }
    substitutions = _TO_MMPRETRAIN if naming == "mmpretrain" else ()
    return {rename(name, substitutions): value for name, value in tensors.items()}


def save_pytorch_weights(
    model: VisionConformer, path: str | os.PathLike, naming: str = "official"
) -> None:
    """Writes the result of `pytorch_state_dict` to a file.

    Args:
        model: a built model.
        path: path of the file, with suffix `.safetensors`.
        naming: `official` or `mmpretrain`.

    Raises:
        UserError: the suffix is not `.safetensors`, the naming is unknown, or the file cannot be
            written.
    """
    write_safetensors(path, pytorch_state_dict(model, naming))


def _choice(found: StateDict) -> str:
    """Returns a message on which weights of a checkpoint are loaded."""
    taken = "the averaged weights (EMA)" if found.is_ema else "the weights without averaging"
    other = "the file has no others"
    if found.has_both:
        other = "--nouse_ema loads the others" if found.is_ema else "--use_ema loads the average"
    return f"loading {taken}; {other}"


def _links(model: VisionConformer) -> list[Link]:
    return [Link(x, (rename(x.path, _OFFICIAL),), _layout(x)) for x in model.weights]


def _layout(variable) -> Layout:
    if "/down/projection/kernel" in variable.path or "/up/projection/kernel" in variable.path:
        return POINTWISE_2D
    return {2: DENSE, 4: CONVOLUTION_2D}.get(len(variable.shape), AS_IS)


def _official_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if any(name.startswith("backbone.") for name in tensors):
        # If the new name exists already, keep the old one, which is then reported as unexpected.
        renamed: dict[str, np.ndarray] = {}
        for name, value in tensors.items():
            official = rename(name, _FROM_MMPRETRAIN)
            renamed[name if official in renamed else official] = value
        return renamed
    return tensors
