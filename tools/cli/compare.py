"""Compares the outputs of two models, and the layers of a converted model with its SavedModel.

The relative error is the largest absolute difference divided by the largest absolute value in the
first model (for layers: in the SavedModel).
"""

import contextlib
import itertools
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tqdm import tqdm

from tools.amounts import counted
from tools.config.command_line import CommandLine, run
from tools.conversion import backends
from tools.conversion.artifact import is_artifact
from tools.conversion.dim_range import pad_to
from tools.conversion.pipeline import read_pipeline
from tools.conversion.protocol import TensorSpec
from tools.conversion.rewrites.graph import WRAPPERS
from tools.conversion.samples import random_inputs
from tools.conversion.saved_model import load_saved_model
from tools.errors import UserError
from tools.families import family_of_checkpoint, open_session, read_examples
from tools.inference.eager import EagerRunner
from tools.inference.session import Session
from tools.training.checkpoint import open_checkpoint

Batch = Mapping[str, np.ndarray]
Batches = Sequence[Batch]
_FREE = 64  # size of random inputs in a dimension without a range
_WALKED, _SHOWN = 4, 8  # number of samples for the comparison of layers; number of layers shown


class Side(NamedTuple):
    """One of the two models.

    Attributes:
        session: the open model.
        directory: folder of the model.
        functions: signatures of a SavedModel as TensorFlow functions; empty for a converted model.
        converted: signatures in the manifest of a converted model; empty for a SavedModel.
    """

    session: Session
    directory: Path
    functions: Mapping
    converted: Mapping


Sides = Sequence[Side]


@dataclass
class Difference:
    """Difference of a tensor between two models, over all batches."""

    name: str
    absolute: float | None = None  # largest absolute difference; None if the tensor is not float
    scale: float = 0.0  # largest absolute value in the first model
    rows: int = 0  # rows compared for equality: of other types, or the largest index of logits
    same: int = 0  # rows that are equal
    note: str = ""  # why the tensors cannot be compared

    @property
    def relative(self) -> float:
        """Largest difference divided by the largest value; infinite if only the latter is 0."""
        if not self.absolute:
            return 0.0
        return self.absolute / self.scale if self.scale else math.inf

    @property
    def error(self) -> str:
        """Absolute and relative error as text in two columns."""
        return "" if self.absolute is None else f"{self.absolute:9.2e}  {self.relative:9.2e}"

    def agrees(self, tolerance: float) -> bool:
        """Returns whether all answers are equal and the relative error is within a tolerance."""
        return not self.note and self.same == self.rows and self.relative <= tolerance

    def add(self, a: np.ndarray, b: np.ndarray, logits: bool = False) -> None:
        """Adds a batch to the comparison.

        Args:
            a: tensor of the first model, `[B, ...]`.
            b: tensor of the second model.
            logits: whether to compare the index of the largest value in each row as well.
        """
        if a.dtype.kind != "f":
            a, b = np.atleast_1d(a, b)
            self._count(_padded(a, b.shape), _padded(b, a.shape))
        elif a.shape != b.shape:
            self.note = f"shapes {list(a.shape)} and {list(b.shape)}"
        else:
            if logits:
                self._count(a.argmax(1), b.argmax(1))
            a, b = a.astype(np.float64), b.astype(np.float64)
            equal = (a == b) | (np.isnan(a) & np.isnan(b))
            error = np.abs(np.subtract(a, b, where=~equal, out=np.zeros_like(a)))
            error[np.isnan(error)] = np.inf
            self.absolute = max(self.absolute or 0.0, error.max(initial=0.0))
            self.scale = max(self.scale, np.abs(a[np.isfinite(a)]).max(initial=0.0))

    def _count(self, a: np.ndarray, b: np.ndarray) -> None:
        self.rows += len(a)
        if a.shape == b.shape:
            self.same += int((a == b).reshape(len(a), -1).all(1).sum())


def _padded(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns the array, padded with zeros to a shape in all dimensions but the batch."""
    return pad_to({"": array}, {"": (None, *shape[1:])})[""]


def open_side(place: str, scratch: Path) -> Side:
    """Opens a SavedModel, a converted model, or a checkpoint, which it exports to `scratch`.

    Raises:
        UserError: the path is none of these.
    """
    path = Path(place)
    if is_artifact(path):
        session = open_session(path)
        return Side(session, path, {}, session.runner.manifest["signatures"])
    if (path / "state.json").is_file() or (path / "checkpoints").is_dir():
        checkpoint, path = open_checkpoint(path), scratch
        family_of_checkpoint(checkpoint).export_checkpoint(checkpoint, path)
    elif not (path / "saved_model.pb").is_file():
        wanted = "a run directory, a checkpoint, a SavedModel or a converted model"
        given = place if path.exists() else f"{place}, which does not exist"
        raise UserError.expected(wanted, given, "Name another path")
    pipeline, functions = read_pipeline(path), load_saved_model(path)
    return Side(Session(EagerRunner(functions, pipeline)), path, functions, {})


def common_signatures(sides: Sides) -> list[str]:
    """Returns the signatures that have the same inputs in both models, without string inputs.

    Raises:
        UserError: there is no such signature.
    """
    a, b = (
        {name: {spec[:2] for spec in specs} for name, specs in side.session.signatures.items()}
        for side in sides
    )
    common = [x for x in a if a[x] == b.get(x) and all(dtype != "string" for _, dtype in a[x])]
    if not common:
        names = f"{', '.join(a)} and {', '.join(b)}"
        raise UserError.expected(
            "two models with a signature of the same inputs",
            names,
            "Compare models of the same task",
        )
    return common


def other_symbols(sides: Sides) -> str:
    """Returns the names of the symbol lists that differ: class names, vocabulary, both or none."""
    a, b = (side.session.pipeline for side in sides)
    known = [x for x in ("class_names", "vocabulary") if a.get(x) and b.get(x)]
    return " and ".join(x for x in known if a[x] != b[x])


def samples_of(sides: Sides, signature: str, data: Batches, count: int) -> Batches:
    """Returns samples for a signature.

    Args:
        sides: the two models.
        signature: name of the signature.
        data: samples of a data set; may be empty.
        count: number of random samples.

    Returns:
        The data, with the inputs of the signature, or random samples if an input is not in them.
    """
    most_bounded = next((side for side in sides if signature in side.converted), sides[0]).session
    specs = most_bounded.signatures[signature]
    names = {spec.name for spec in specs}
    if data and names <= data[0].keys():
        return [{name: sample[name] for name in names} for sample in data]
    return [_random(specs, most_bounded.pipeline, seed) for seed in range(count)]


def _random(specs: Sequence[TensorSpec], pipeline: Mapping, seed: int) -> Batch:
    """Returns a random sample of full length; ranges are set to their geometric mean."""
    ranges = {k: v for x in pipeline.get("convert", {}).values() for k, v in x["dim_range"].items()}
    shapes = {}
    for name, _, shape in specs:
        given = iter(ranges.get(name, ()))
        sizes = [next(given, _FREE) if size is None else size for size in shape[1:]]
        sizes = [x if isinstance(x, int) else round(math.sqrt(math.prod(x))) for x in sizes]
        shapes[name] = (1, *sizes)
    return random_inputs(specs, shapes, seed)


def batches_of(sides: Sides, signature: str, samples: Batches, size: int) -> Iterator[Batch]:
    """Yields batches of samples, padded to the shapes to which a converted model would pad them.

    Args:
        sides: the two models.
        signature: name of the signature.
        samples: samples as batches of 1.
        size: number of samples in a batch.
    """
    for start in tqdm(range(0, len(samples), size), signature, file=sys.stderr, delay=2):
        rows, batch = samples[start : start + size], {}
        for name in rows[0]:
            shape = np.max([row[name].shape for row in rows], axis=0).tolist()
            batch[name] = np.concatenate([_padded(row[name], shape) for row in rows])
        for side in sides:
            if signature in side.converted:
                padded = side.session.runner.pad(batch, signature)
                batch = {name: array[: len(rows)] for name, array in padded.items()}
        yield batch


def compare_outputs(sides: Sides, signature: str, samples: Batches, size: int) -> list[Difference]:
    """Runs both models on the same batches and compares all outputs of a signature.

    Args:
        sides: the two models.
        signature: name of the signature.
        samples: samples as batches of 1.
        size: number of samples in a batch.

    Raises:
        UserError: a model cannot run on the samples.
    """
    found: dict[str, Difference] = {}
    for batch in batches_of(sides, signature, samples, size):
        try:
            a, b = (side.session.run(batch, signature) for side in sides)
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            raise UserError.expected(
                "inputs that both models can run on", error, "Choose other data"
            ) from error
        for name in a | b:
            one, other = a.get(name, np.zeros(0)), b.get(name, np.zeros(0))
            logits = name in ("logits", "probabilities") and one.ndim == 2
            found.setdefault(name, Difference(name)).add(one, other, logits)
    return list(found.values())


def compare_layers(
    native: Side, converted: Side, signature: str, samples: Batches
) -> list[Difference]:
    """Compares layers of the same name and shape in execution order, and then the outputs.

    Runs one sample at a time, because the values of layers in padding may differ.

    Args:
        native: the SavedModel.
        converted: the converted model.
        signature: name of the signature.
        samples: samples as batches of 1.

    Returns:
        A difference for each layer; empty if the runtime cannot return its layers.
    """
    described = converted.converted[signature]
    backend, path = backends.get(described["backend"]), converted.directory / described["files"][0]
    if not hasattr(backend, "probe"):
        return []
    function = native.functions[signature]
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    operators = {WRAPPERS.sub("", x.name): x for x in frozen.graph.get_operations() if x.outputs}
    outputs = dict(zip(sorted(function.structured_outputs), frozen.outputs, strict=True))
    tensors = {x: operators[x].outputs[0] for x in backend.layers(path) if x in operators} | outputs
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.dtype.is_floating}
    fetch = frozen.prune(frozen.inputs, list(tensors.values()))
    look = backend.probe(path, described, [name for name in tensors if name not in outputs])
    found = {name: Difference(name) for name in tensors}
    least = np.min(converted.session.signatures[signature][0].shape[0])
    for batch in batches_of((native, converted), signature, samples, 1):
        batch = {k: np.repeat(x, least, axis=0) for k, x in batch.items()}
        expected = fetch(*(tf.constant(batch[x.name.split(":")[0]]) for x in frozen.inputs))
        shown = look(batch)
        for name, tensor in zip(tensors, expected, strict=True):
            found[name].add(tensor.numpy(), shown[name])
    return [difference for difference in found.values() if not difference.note]


def compare(sides: Sides, values: SimpleNamespace) -> bool:
    """Prints the differences of two models; returns whether they agree within the tolerance."""
    pipeline, place, data = sides[0].session.pipeline, values.data_dir, ()
    signatures = common_signatures(sides)
    other = other_symbols(sides)
    if other:
        print(f"DIFFERS in {other}: the same index has another meaning")
    agree = not other
    if place:
        data = read_examples(pipeline, Path(place), values.samples, False).batches
    samples = {name: samples_of(sides, name, data, values.samples) for name in signatures}
    drawn = [x for x in samples if not data or samples[x][0].keys() - data[0].keys()]
    print(
        f"{counted(len(data) or values.samples, 'sample')}, random for {', '.join(drawn) or 'none'}"
    )
    print(f"{'signature':16} {'output':18} {'error':>9}  {'relative':>9}  same answers")
    for name in signatures:
        for found in compare_outputs(sides, name, samples[name], values.batch_size):
            answers = f"{found.same} of {found.rows}" if found.rows else ""
            verdict = "" if found.agrees(values.tolerance) else f"DIFFERS {found.note}"
            print(f"{name:16} {found.name:18} {found.error:20}  {answers:13} {verdict}".rstrip())
            agree &= not verdict
    for native, converted in itertools.permutations(sides):
        for name in signatures if native.functions else ():
            if name in converted.converted:
                layers = compare_layers(native, converted, name, samples[name][:_WALKED])
                show_layers(name, layers, values.tolerance)
    return agree


def show_layers(signature: str, layers: Sequence[Difference], tolerance: float) -> None:
    """Prints the first layer beyond the tolerance, and the layers with the largest errors."""
    if not layers:
        print(f"\n{signature}: the runtime does not show its layers")
        return
    first = next((x for x in layers if x.relative > tolerance), None)
    beyond = f"{first.name}, {first.absolute:.2e}, {first.relative:.2e}" if first else "none"
    print(
        f"\n{signature}, {counted(len(layers), 'layer')}, "
        f"first beyond {tolerance:g}: {beyond}; the worst:"
    )
    distinct = {x.error: x for x in reversed(layers)}.values()  # skip layers that only reshape
    for layer in sorted(distinct, key=lambda x: -x.relative)[:_SHOWN]:
        print(f"  {layer.error}  {layer.name}")


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.cli.compare",
        "Compares two models on the same inputs, and names the first layer that differs.",
        "A B [FLAGS]",
        example="exports/m converted/m --data_dir=LibriSpeech/dev-clean",
    )
    flags.group("Input")
    flags.string("data_dir", None, "Data to compare on.", default_text="random inputs")
    flags.integer("samples", 16, "Samples of the data, taken at equal distances.")
    flags.group("Runtime")
    flags.integer("batch_size", 1, "Samples run together.")
    flags.group("Measurement")
    flags.number("tolerance", 1e-3, "Largest relative error of outputs that count as equal.")
    values, places = flags.parse(argv)
    least = min(values.samples, values.batch_size)
    if len(places) != 2 or least < 1 or not 0 <= values.tolerance < math.inf:
        wanted = "two models, --samples and --batch_size >= 1, --tolerance >= 0"
        raise UserError.expected(wanted, " ".join(argv) or "nothing", "See --help")
    with contextlib.ExitStack() as stack:
        scratch, sides = Path(stack.enter_context(tempfile.TemporaryDirectory())), []
        for number, place in enumerate(places):
            sides.append(open_side(place, scratch / str(number)))
            stack.enter_context(sides[-1].session)
        return 0 if compare(sides, values) else 1


if __name__ == "__main__":
    run(main)
