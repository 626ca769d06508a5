"""Weights that TensorFlowASR 0.8 to 1.0 has saved with Keras 2 (`50.h5`).

The file has a group for each part of the model: encoder, prediction and joint. Inside a group the
order of the arrays is fixed, whereas some names depend on how many layers the process had made.
Arrays are therefore matched by their order and the end of their name, and checked by their shape.

Source: TensorFlowASR 0.8.3, models/transducer/conformer.py and encoders/conformer.py; 0.8.3 and
1.0.4, featurizers/speech_featurizers.py; tf-keras 2.16, src/saving/legacy/hdf5_format.py.
"""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from conformer.model import ConformerTransducer
from tools.errors import UserError
from tools.launcher import launched_rank
from tools.weights.assignment import AS_IS, Layout, Link, assign

DIFFERENCES = (
    "fine-tune the model before you use it, because it differs from TensorFlowASR's: the mel "
    "filters are Slaney's instead of HTK's (use_tf: true), the convolutions before the encoder "
    "start one frame and one bin earlier, positions after a frame are told from those before it, "
    "and epsilon of the layer norms is another"
)
# Options of the front end that TensorFlowASR does not have, and its way.
_FRONT_END = {
    "extractor": "librosa",
    "normalization": "utterance",
    "remove_dc_offset": False,
    "min_hz": 0.0,
    "max_hz": None,
}

_log = logging.getLogger(__name__)

# End of the name in the file, and the variable of the encoder, in the order of the file.
_SUBSAMPLING = """
    kernel subsampling/convolution_0/kernel
    bias subsampling/convolution_0/bias
    kernel subsampling/convolution_1/kernel
    bias subsampling/convolution_1/bias
    kernel subsampling/projection/kernel
    bias subsampling/projection/bias
"""
_BLOCK = """
    gamma norm_feedforward_0/gamma
    beta norm_feedforward_0/beta
    kernel feedforward_0/expansion/kernel
    bias feedforward_0/expansion/bias
    kernel feedforward_0/projection/kernel
    bias feedforward_0/projection/bias
    gamma norm_attention/gamma
    beta norm_attention/beta
    pos_kernel attention/position/kernel
    pos_bias_u attention/content_bias
    pos_bias_v attention/position_bias
    query_kernel attention/query_key_value/kernel
    key_kernel attention/query_key_value/kernel
    value_kernel attention/query_key_value/kernel
    projection_kernel attention/output_projection/kernel
    projection_bias attention/output_projection/bias
    gamma norm_convolution/gamma
    beta norm_convolution/beta
    kernel convolution/expansion/kernel
    bias convolution/expansion/bias
    depthwise_kernel convolution/depthwise/kernel
    bias convolution/depthwise/bias
    gamma convolution/normalization/gamma
    beta convolution/normalization/beta
    kernel convolution/projection/kernel
    bias convolution/projection/bias
    gamma norm_feedforward_1/gamma
    beta norm_feedforward_1/beta
    kernel feedforward_1/expansion/kernel
    bias feedforward_1/expansion/bias
    kernel feedforward_1/projection/kernel
    bias feedforward_1/projection/bias
    gamma norm_output/gamma
    beta norm_output/beta
"""
_STATISTICS = """
    moving_mean convolution/normalization/moving_mean
    moving_variance convolution/normalization/moving_variance
"""
_PREDICTION = """
    embeddings embedding/embeddings
    gamma norm/gamma
    beta norm/beta
    kernel lstm/lstm_cell/kernel
    recurrent_kernel lstm/lstm_cell/recurrent_kernel
    bias lstm/lstm_cell/bias
"""
_JOINT = """
    kernel encoded_projection/kernel
    bias encoded_projection/bias
    kernel predicted_projection/kernel
    kernel vocabulary_projection/kernel
    bias vocabulary_projection/bias
"""


def load_keras2_weights(model: ConformerTransducer, path: str | Path) -> None:
    """Assigns the weights of a file to a model; rank 0 logs a warning about the differences.

    Args:
        model: a built model without a CTC head.
        path: of the file.

    Raises:
        UserError: the file cannot be read, or does not fit the model.
    """
    groups = _read(Path(path))
    heads = model.encoder.num_heads
    variables = {variable.path.split("/", 1)[1]: variable for variable in model.weights}
    num_layers = len({x.split("/")[1] for x in variables if x.startswith("encoder/block_")})
    links, tensors = [], {}
    for part, rows in _rows(num_layers).items():
        arrays = groups[part]
        if len(arrays) != len(rows):
            raise UserError.expected(
                f"{len(rows)} arrays for the {part} of a model of {num_layers} blocks in {path}",
                len(arrays),
                "Train with the config of the file",
            )
        keys: dict[str, list[str]] = {}
        for number, ((name, array), (end, variable)) in enumerate(zip(arrays, rows, strict=True)):
            if name.rpartition("/")[2].partition(":")[0] != end:
                raise UserError.expected(
                    f"an array {end} as number {number} of the {part} in {path}",
                    name,
                    "Name weights of TensorFlowASR 0.8 to 1.0",
                )
            if f"{part}/{variable}" not in variables:
                raise UserError.expected(
                    "model.prediction: lstm for weights of TensorFlowASR",
                    f"a model without {part}/{variable}",
                    "Set model.prediction: lstm",
                )
            keys.setdefault(f"{part}/{variable}", []).append(name)
            tensors[name] = array
        links += [Link(variables[x], tuple(names), _layout(x, heads)) for x, names in keys.items()]
    # The file has no simple joint network, which the pruned loss trains.
    weights = [v for v in model.weights if "/simple_joint/" not in v.path]
    assign(weights, links, tensors)
    others = [
        f"features.{name} is {getattr(model.features, name)} instead of {theirs}"
        for name, theirs in _FRONT_END.items()
        if getattr(model.features, name) != theirs
    ]
    if launched_rank() == 0:
        _log.warning("%s: %s", path, "; ".join([DIFFERENCES, *others]))


def _rows(num_layers: int) -> dict[str, list[tuple[str, str]]]:
    """Returns the ends of the names and the variables of each part, in the order of the file."""

    def pairs(text: str, prefix: str = "") -> list[tuple[str, str]]:
        lines = (line.split() for line in text.strip().splitlines())
        return [(end, prefix + variable) for end, variable in lines]

    blocks = [f"block_{number}/" for number in range(num_layers)]
    encoder = pairs(_SUBSAMPLING)
    for text in (_BLOCK, _STATISTICS):
        for block in blocks:
            encoder += pairs(text, block)
    return {"encoder": encoder, "prediction": pairs(_PREDICTION), "joint": pairs(_JOINT)}


def _layout(variable: str, heads: int) -> Layout:
    """Returns the conversion of the arrays of a variable."""
    if variable.endswith("position/kernel"):  # [H, D, K] to [D, H K]
        return Layout(_to_columns, lambda x: (_from_columns(x, heads),))
    if variable.endswith("query_key_value/kernel"):
        return Layout(
            lambda *parts: np.concatenate([*map(_to_columns, parts)], axis=1),
            lambda x: tuple(_from_columns(part, heads) for part in np.split(x, 3, axis=1)),
        )
    if variable.endswith("output_projection/kernel"):  # [H, K, D] to [H K, D]
        return Layout(
            lambda x: x.reshape(-1, x.shape[2]), lambda x: (x.reshape(heads, -1, x.shape[1]),)
        )
    if variable.endswith(("convolution/expansion/kernel", "convolution/projection/kernel")):
        return Layout(lambda x: x[0, 0], lambda x: (x[None, None],))
    return AS_IS


def _to_columns(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(1, 0, 2).reshape(kernel.shape[1], -1)


def _from_columns(kernel: np.ndarray, heads: int) -> np.ndarray:
    return kernel.reshape(kernel.shape[0], heads, -1).transpose(1, 0, 2)


def _read(path: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Returns the names and arrays of the parts of the model, in the order of the file."""
    try:
        with h5py.File(path) as file:
            names = [*_texts(file, "layer_names")]
            found = {}
            for part in ("encoder", "prediction", "joint"):
                group = next((file[x] for x in names if x.endswith(f"_{part}")), None)
                if group is None:
                    raise UserError.expected(
                        f"the group of the {part} in {path}",
                        ", ".join(names) or "no groups",
                        "Name weights of TensorFlowASR 0.8 to 1.0",
                    )
                found[part] = [(x, group[x][()]) for x in _texts(group, "weight_names")]
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise UserError.expected(
            f"Keras 2 weights in {path}", " ".join(str(error).split()), "Check the file"
        ) from error
    return found


def _texts(group: h5py.Group, name: str) -> Iterator[str]:
    """Yields the texts of an attribute, which is in numbered parts if it is long."""
    numbered = (f"{name}{number}" for number in itertools.count())
    parts = itertools.takewhile(group.attrs.__contains__, numbered)
    for part in [name] if name in group.attrs else parts:
        for text in group.attrs[part]:
            yield text.decode() if isinstance(text, bytes) else text
