"""Lays out an exported model for TensorFlow Serving: version folder, warm-up, configuration."""

import io
import os
import re
import sys
import wave
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.conversion.pipeline import read_pipeline
from tools.conversion.protocol import TensorSpec
from tools.conversion.samples import random_inputs
from tools.errors import UserError
from tools.files import one_at_a_time
from tools.serving.batching import BatchingOptions
from tools.serving.model_config import MODELS_CONFIG, labels_of, merged
from tools.serving.publishing import prediction_log, publish, write_configs

_SECONDS = 2.0  # length of the sound of a warm-up request
_SIGNATURES = ("serving_default", "serve_bytes")
_BATCHING = BatchingOptions()
_TIMEOUT_MS = 2.0  # TensorFlow Serving runs several batches at once, and would not collect any


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "tools.cli.publish",
        "Lays out an exported model for TensorFlow Serving, with warm-up requests.",
        "--native_savedmodel_dir=DIR --model_root=DIR --name=NAME [FLAGS]",
        example="--native_savedmodel_dir=exports/m --model_root=models --name=conformer",
    )
    flags.group("Input")
    flags.string("native_savedmodel_dir", None, "SavedModel to publish.", default_text=REQUIRED)
    flags.group("Output")
    flags.string("model_root", None, "Folder of all models.", default_text=REQUIRED)
    flags.string("name", None, "Name of the model in addresses.", default_text=REQUIRED)
    about = "Number of the version."
    flags.integer("version", None, about, default_text="1 more than the newest one")
    about = "Label of the version, such as stable; further versions can take it over."
    flags.string("label", None, about, default_text="none")
    flags.group("Runtime")
    about = "Largest number of inputs that TensorFlow Serving runs together."
    flags.integer("max_batch_size", _BATCHING.max_batch_size, about)
    about = "Milliseconds that an input waits for others."
    flags.number("batch_timeout_ms", _TIMEOUT_MS, about)
    values, rest = flags.parse(argv)
    for name in ("native_savedmodel_dir", "model_root", "name"):
        if rest or not getattr(values, name):
            raise UserError.expected(f"--{name}", " ".join(rest) or "none", "See --help")
    for name in ("name", "label"):
        text = getattr(values, name)
        if text and (not re.fullmatch(r"[\w.-]+", text, re.ASCII) or text.startswith(".")):
            raise UserError.expected(
                f"a --{name} of letters, digits, _, - and .", text, f"Correct --{name}"
            )
    for name, least in (("version", 1), ("max_batch_size", 1), ("batch_timeout_ms", 0)):
        value = getattr(values, name)
        if value is not None and not value >= least:
            raise UserError.expected(f"--{name} >= {least}", value, f"Correct --{name}")
    model_dir, root = Path(values.native_savedmodel_dir), Path(values.model_root)
    labels_of(root / MODELS_CONFIG)  # errors are reported before the warm-up
    records = _warm_up(model_dir, values.name)
    target = publish(model_dir, root / values.name, values.version, records)
    new = {values.name: {values.label: int(target.name)}} if values.label else {}
    with one_at_a_time(root / MODELS_CONFIG):
        write_configs(
            root,
            labels=merged(labels_of(root / MODELS_CONFIG), new),
            max_batch_size=values.max_batch_size,
            batch_timeout_ms=values.batch_timeout_ms,
        )
    print(f"published {model_dir} as {target}", file=sys.stderr)
    return 0


def _warm_up(model_dir: Path, name: str) -> list[bytes]:
    """Returns warm-up requests for each signature that clients use, after running each once."""
    pipeline = read_pipeline(model_dir)
    import tensorflow as tf

    from tools.conversion.saved_model import load_saved_model

    records = []
    for signature, function in load_saved_model(model_dir).items():
        if signature not in _SIGNATURES:
            continue
        inputs = _inputs(function.structured_input_signature[1], pipeline)
        function(**inputs)
        tensors = {
            key: tf.make_tensor_proto(value).SerializeToString() for key, value in inputs.items()
        }
        records.append(prediction_log(name, signature, tensors))
    return records


def _inputs(specs: Mapping, pipeline: Mapping) -> dict:
    """Returns inputs of a signature for one row: a sound or an image of noise."""
    import tensorflow as tf

    if set(specs) == {"bytes"}:
        content = _wav(pipeline) if "sample_rate_hz" in pipeline else _png(pipeline)
        return {"bytes": tf.constant([content])}
    samples = round(_SECONDS * pipeline.get("sample_rate_hz", 0))
    tensors, shapes = [], {}
    for key, spec in specs.items():
        sizes = tuple(spec.shape)
        tensors.append(TensorSpec(key, spec.dtype.name, sizes))
        shapes[key] = (1, *(samples if size is None else size for size in sizes[1:]))
    return {key: tf.constant(x) for key, x in random_inputs(tensors, shapes).items()}


def _wav(pipeline: Mapping) -> bytes:
    noise = np.random.default_rng(0).standard_normal(round(_SECONDS * pipeline["sample_rate_hz"]))
    with io.BytesIO() as file:
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(pipeline["sample_rate_hz"])
            sound.writeframes((1000 * noise).astype("<i2").tobytes())
        return file.getvalue()


def _png(pipeline: Mapping) -> bytes:
    import tensorflow as tf

    side = pipeline["preprocessing"]["image_size"]
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return tf.io.encode_png(image).numpy()


if __name__ == "__main__":
    run(main)
