"""Weights of the PyTorch vision Conformers: pengzhiliang/Conformer (official) and mmpretrain."""

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

# From the path of a variable to the official name.
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
    """Loads an official checkpoint, one of distributed training, or one of mmpretrain.

    Heads of another number of classes are left at their initial values, which is logged and told.

    Args:
        model: built.
        source: file of `torch.save` or `.safetensors`, or its content: arrays by name, bare or
            under a key such as `model` or `state_dict`.
        use_ema: whether to take the moving average (EMA); None: only where there is nothing else.

    Raises:
        UserError: the file cannot be read, or holds anything but the weights of this architecture.
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
    """Makes what `load_state_dict(strict=True)` of the PyTorch implementation takes.

    Args:
        model: built.
        naming: `official` or `mmpretrain`.

    Returns:
        Arrays by name, the counters of batches that PyTorch keeps beside its statistics at zero.

    Raises:
        UserError: another naming.
    """
    if naming not in ("official", "mmpretrain"):
        raise UserError.expected("the naming official or mmpretrain", naming, "Correct it")
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
    """Writes `pytorch_state_dict` as `.safetensors`.

    Raises:
        UserError: another suffix or naming, or the file cannot be written.
    """
    write_safetensors(path, pytorch_state_dict(model, naming))


def _choice(found: StateDict) -> str:
    """Says which weights of a checkpoint are taken."""
    taken = "the averaged weights (EMA)" if found.is_ema else "the weights that are no average"
    other = "no others are in the file"
    if found.has_both:
        other = "--nouse_ema takes the others" if found.is_ema else "--use_ema takes the average"
    return f"taking {taken}; {other}"


def _links(model: VisionConformer) -> list[Link]:
    return [Link(x, (rename(x.path, _OFFICIAL),), _layout(x)) for x in model.weights]


def _layout(variable) -> Layout:
    if "/down/projection/kernel" in variable.path or "/up/projection/kernel" in variable.path:
        return POINTWISE_2D
    return {2: DENSE, 4: CONVOLUTION_2D}.get(len(variable.shape), AS_IS)


def _official_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if any(name.startswith("backbone.") for name in tensors):
        # A name that is taken stays as it is, to be refused as unexpected.
        renamed: dict[str, np.ndarray] = {}
        for name, value in tensors.items():
            official = rename(name, _FROM_MMPRETRAIN)
            renamed[name if official in renamed else official] = value
        return renamed
    return tensors
