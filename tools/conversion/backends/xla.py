"""XLA: a copy of the SavedModel with compiled signatures, which TensorFlow Serving can run, too."""

import functools
import importlib.metadata
import shutil
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tools.conversion.protocol import (
    DEFAULT_EXECUTION,
    Examples,
    Execution,
    Opened,
    Saved,
    Source,
)
from tools.conversion.request import ConversionRequest
from tools.conversion.saved_model import limit_threads, load_saved_model

NAME = "xla"
NOT_APPLICABLE = {
    "minimum_segment_size": "XLA compiles whole signatures",
    "opt_config": "XLA rewrites the graph itself",
}
SMALL = "onnxruntime"
PREPARES_SHAPES = True
_FOLDER = "saved_model"
_MARK = "_XlaMustCompile"  # attribute that tf.function(jit_compile=True) sets


def versions() -> dict[str, str]:
    """Returns the versions on which a converted model depends, by package."""
    return {"tensorflow": importlib.metadata.version("tensorflow")}


def precisions() -> tuple[str, ...]:
    """Returns the supported precisions; see `Backend.precisions`."""
    return ("fp32",)


def save(
    source: Source, request: ConversionRequest, folder: Path, examples: Examples | None
) -> Saved:
    """Copies the SavedModel and marks the function of a signature for XLA; see `Backend.save`.

    Other functions that call it, such as `serving_default`, run the compiled function, too. XLA
    compiles each shape when it first runs.
    """
    copy = folder / _FOLDER
    if not copy.exists():  # by an earlier signature
        copy.mkdir()
        shutil.copy2(source.native_dir / "saved_model.pb", copy)
        for part in ("variables", "assets"):
            shutil.copytree(source.native_dir / part, copy / part)
    path = copy / "saved_model.pb"
    model = SavedModel.FromString(path.read_bytes())
    graph = model.meta_graphs[0].graph_def
    signature = model.meta_graphs[0].signature_def[source.name]
    output = next(iter(signature.outputs.values())).name
    wrapper = _called(next(x for x in graph.node if x.name == output.split(":")[0]))
    functions = {function.signature.name: function for function in graph.library.function}
    name = next(filter(None, map(_called, functions[wrapper].node_def)))
    functions[name].attr[_MARK].b = True
    for function in functions.values():
        for node in function.node_def:
            if _called(node) == name:
                node.attr[_MARK].b = True
    path.write_bytes(model.SerializeToString())
    return Saved([f"{_FOLDER}/saved_model.pb"])


def _called(node) -> str:
    """Returns the name of the function that a node calls, empty if it calls none."""
    return node.attr["f"].func.name if node.op.endswith("PartitionedCall") else ""


def open(path: Path, described: Mapping, execution: Execution = DEFAULT_EXECUTION) -> Opened:
    """Loads a signature; see `Backend.open`."""
    limit_threads(execution.threads)
    state = path.stat()
    function = _load(path.parent, (state.st_ino, state.st_mtime_ns))[described["name"]]

    def run(inputs):
        tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in function(**tensors).items()}

    return lambda: run  # several threads may run a function of TensorFlow at the same time


@functools.lru_cache(maxsize=1)
def _load(directory: Path, written: tuple[int, int]):
    """Loads a SavedModel once for all its signatures.

    Args:
        directory: directory of the SavedModel.
        written: inode and time of its file, which differ if the model was replaced.
    """
    return load_saved_model(directory)
