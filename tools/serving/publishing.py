"""Folders for TensorFlow Serving: versions of models, warm-up requests, configuration files."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.conversion.pipeline import read_pipeline
from tools.errors import UserError
from tools.files import new_folder, one_at_a_time, write_text
from tools.serving.model_config import MODELS_CONFIG

BATCHING_CONFIG, MONITORING_CONFIG = "batching.config", "monitoring.config"
WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"
_SERVED_ROOT = "/models"  # of the container of TensorFlow Serving
_MONITORING = 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }\n'


def next_version(folder: Path) -> int:
    """Returns the number after the newest version in the folder of a model."""
    versions = [int(x.name) for x in folder.glob("*") if x.name.isascii() and x.name.isdigit()]
    return max(versions, default=0) + 1


def publish(model_dir: Path, folder: Path, version: int | None, records: Sequence[bytes]) -> Path:
    """Copies a SavedModel into a numbered folder, with warm-up requests.

    The folder appears complete, so that a running server does not read a part of it.

    Args:
        model_dir: the SavedModel.
        folder: folder of the model, with its versions.
        version: number of the version; None takes the next one.
        records: serialized warm-up requests; see `prediction_log`.

    Returns:
        The folder of the version.

    Raises:
        UserError: the version exists, or something cannot be read or written.
    """
    import tensorflow as tf

    read_pipeline(model_dir)  # reports what is no export
    with one_at_a_time(folder / "version"):
        target = folder / str(next_version(folder) if version is None else version)
        if target.exists():
            raise UserError.expected(
                f"a new version in {folder}", target.name, "Leave --version out"
            )
        with new_folder(target) as beside:
            shutil.copytree(model_dir, beside, dirs_exist_ok=True)
            (beside / WARM_UP).parent.mkdir(exist_ok=True)
            with tf.io.TFRecordWriter(str(beside / WARM_UP)) as writer:
                for record in records:
                    writer.write(record)
    return target


def write_configs(
    root: Path,
    *,
    labels: Mapping[str, Mapping[str, int]],
    max_batch_size: int,
    batch_timeout_ms: float,
) -> None:
    """Writes the configuration files of TensorFlow Serving for all models of a root folder.

    Args:
        root: folder with a folder for each model.
        labels: number of the version of each label, by model.
        max_batch_size: largest number of inputs in a batch.
        batch_timeout_ms: longest time that an input waits for others.
    """
    names = sorted(x.name for x in root.iterdir() if x.is_dir() and next_version(x) > 1)
    models = "".join(_model_config(name, labels.get(name, {})) for name in names)
    write_text(root / MODELS_CONFIG, f"model_config_list {{\n{models}}}\n")
    batching = {
        "max_batch_size": max_batch_size,
        "batch_timeout_micros": round(1000 * batch_timeout_ms),
        "max_enqueued_batches": 100,
    }
    lines = "".join(f"{key} {{ value: {value} }}\n" for key, value in batching.items())
    # Lengths tell which samples are padding.
    write_text(root / BATCHING_CONFIG, f"{lines}pad_variable_length_inputs: true\n")
    write_text(root / MONITORING_CONFIG, _MONITORING)


def _model_config(name: str, labels: Mapping[str, int]) -> str:
    lines = [
        f"    name: {_quoted(name)}",
        f"    base_path: {_quoted(f'{_SERVED_ROOT}/{name}')}",
        '    model_platform: "tensorflow"',
    ]
    if labels:  # TensorFlow Serving refuses labels of versions that are not loaded
        lines.append("    model_version_policy { all {} }")
    for label, version in sorted(labels.items()):
        lines.append(f"    version_labels {{ key: {_quoted(label)} value: {version} }}")
    return "".join(f"{line}\n" for line in ["  config {", *lines, "  }"])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def prediction_log(name: str, signature: str, inputs: Mapping[str, bytes]) -> bytes:
    """Returns a serialized `tensorflow.serving.PredictionLog` with a request to Predict.

    Args:
        name: name of the model.
        signature: name of the signature.
        inputs: serialized `tensorflow.TensorProto` by name of the input.

    Source: tensorflow-serving-api 2.16.1, `prediction_log.proto`, `predict.proto`, `model.proto`.
    """
    model_spec = _field(1, name.encode()) + _field(3, signature.encode())
    request = _field(1, model_spec)
    for key, tensor in inputs.items():
        request += _field(2, _field(1, key.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """Returns a length-delimited field of the protocol buffer wire format."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
