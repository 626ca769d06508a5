"""XLA: the SavedModel again, with the large signatures compiled, for TensorFlow Serving too."""

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
    "minimum_segment_size": "a signature is compiled whole",
    "opt_config": "XLA rewrites the graph by itself",
}
SMALL = "onnxruntime"
PREPARES_SHAPES = True
_FOLDER = "saved_model"
_MARK = "_XlaMustCompile"  # what tf.function(jit_compile=True) leaves in a graph


def versions() -> dict[str, str]:
    """Versions that an artifact depends on, by package."""
    return {"tensorflow": importlib.metadata.version("tensorflow")}


def precisions() -> tuple[str, ...]:
    """What it can compute in; see `Backend.precisions`."""
    return ("fp32",)


def save(
    source: Source, request: ConversionRequest, folder: Path, examples: Examples | None
) -> Saved:
    """Marks the function of a signature in a copy of the SavedModel; see `Backend.save`.

    Whatever else calls that function, `serving_default` for one, runs it compiled as well. Every
    shape is compiled when it is first met.
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
    """The function that a node calls, empty where it calls none."""
    return node.attr["f"].func.name if node.op.endswith("PartitionedCall") else ""


def open(path: Path, described: Mapping, execution: Execution = DEFAULT_EXECUTION) -> Opened:
    """Loads a signature; see `Backend.open`."""
    limit_threads(execution.threads)
    state = path.stat()
    function = _load(path.parent, (state.st_ino, state.st_mtime_ns))[described["name"]]

    def run(inputs):
        tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in function(**tensors).items()}

    return lambda: run  # TensorFlow lets several threads run one function


@functools.lru_cache(maxsize=1)
def _load(directory: Path, written: tuple[int, int]):
    """Loads the SavedModel once for all its signatures.

    Args:
        directory: of the SavedModel.
        written: tells it from an earlier one in the same place.
    """
    return load_saved_model(directory)
