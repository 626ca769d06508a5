"""The sides of a benchmark: our runtimes, a PyTorch model, and PyTorch's ONNX export of it."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, Protocol

import numpy as np

from tools.benchmark.peer import Peer
from tools.benchmark.turns import timed
from tools.conversion import backends
from tools.conversion.converter import convert
from tools.conversion.protocol import Calibration
from tools.conversion.request import ConversionRequest, Quantization
from tools.inference.runner import Runner, load

PEER = "pytorch eager"
EAGER = "tensorflow eager"
NOISE = 1e-3  # in standard deviations of the input


class Side(Protocol):
    """Something that computes logits."""

    def take(self, inputs: np.ndarray) -> None:
        """Stores a batch for the next calls."""

    def time(self) -> float:
        """Runs one forward pass and returns its seconds."""

    def logits(self) -> np.ndarray:
        """Returns the logits of the batch."""


class LocalSide:
    """A runtime in this process.

    Args:
        run: function from inputs to outputs, both by name.
        feed: function from a batch to the inputs.
        read: function from the outputs to the logits.
    """

    def __init__(
        self,
        run: Callable[[Mapping], Mapping],
        feed: Callable[[np.ndarray], Mapping],
        read: Callable[[Mapping], np.ndarray],
    ):
        self._run, self._feed, self._read = run, feed, read

    def take(self, inputs):
        """See `Side`."""
        self._inputs = self._feed(inputs)

    def time(self):
        """See `Side`."""
        return timed(self._run, self._inputs)()

    def logits(self):
        """See `Side`."""
        return self._read(self._run(self._inputs))


class PeerSide:
    """A model in a separate process.

    Args:
        peer: process with the requests `take`, `time` and `logits`; arrays are passed in files.
        folder: folder of the files.
    """

    def __init__(self, peer: Peer, folder: Path):
        self.ask = peer.ask
        self._inputs, self._logits = (str(folder / f"{x}.npy") for x in ("inputs", "logits"))

    def take(self, inputs):
        """See `Side`."""
        np.save(self._inputs, inputs)
        self.ask("take", self._inputs)

    def time(self):
        """See `Side`; the peer measures the time."""
        return self.ask("time")

    def logits(self):
        """See `Side`."""
        self.ask("logits", self._logits)
        return np.load(self._logits)


def describe(quantization: Quantization) -> str:
    """Returns the settings of a quantization as short text."""
    words = [quantization.algo, quantization.type, quantization.granularity]
    kept = (f"+{x[1:]}" if x.startswith("-") else f"-{x}" for x in quantization.keep_in_float)
    return " ".join((*words, *kept))


def open_runners(
    native: Path,
    folder: Path,
    values: SimpleNamespace,
    shapes: ConversionRequest,
    *,
    calibration: Calibration,
) -> dict[str, Runner]:
    """Opens the SavedModel and its converted models; converts those that do not exist yet.

    Args:
        native: the SavedModel.
        folder: folder of the converted models.
        values: values of the flags of `comparison.add_flags`.
        shapes: request whose `batch` and `dim_range` are used.
        calibration: data for quantization.

    Returns:
        The runners by the name of their side.
    """
    asked = Quantization(
        values.quantize_algo,
        values.quantize_type,
        values.quantize_granularity,
        tuple(filter(None, values.keep_in_float.split(","))),
    )
    kinds = [("fp32", None), *(("int8_fp32", x) for x in dict.fromkeys((Quantization(), asked)))]
    places = {EAGER: native}
    for backend in values.backends:
        for precision, quantization in kinds:
            if precision not in values.precisions:
                continue
            name = f"{backend} {precision}"
            name += f" {describe(quantization)}" if quantization else ""
            request = replace(
                shapes, backend=backend, precision=precision, quantization=quantization
            )
            place = folder / name.replace("/", "_").replace(" ", "-")
            places[name] = Path(convert(native, place, request, calibration)["directory"])
            gc.collect()  # frees gigabytes that reference cycles of the conversion keep
    return {name: load(place) for name, place in places.items()}


def export_name(backend: str) -> str:
    """Returns the name of the side that runs PyTorch's own export."""
    return f"{backend} fp32 on PyTorch's ONNX"


class PeerExport(NamedTuple):
    """The ONNX export that PyTorch makes of a peer's model, and how to run it.

    Attributes:
        path: file to write, unless it exists.
        zeros: a batch of the shape to export for.
        inputs: name of the input.
        outputs: name of the output, or names of several.
        feed: see `LocalSide`.
        read: see `LocalSide`.
    """

    path: Path
    zeros: np.ndarray
    inputs: str
    outputs: str | Sequence[str]
    feed: Callable[[np.ndarray], Mapping]
    read: Callable[[Mapping], np.ndarray]


def open_sides(
    ours: Mapping[str, Side],
    peer: PeerSide | None,
    model: Sequence[object],
    export: PeerExport,
    *,
    names: Sequence[str],
) -> dict[str, Side]:
    """Adds the peer to our sides, and each backend with the peer's own ONNX export.

    Args:
        ours: our sides by name.
        peer: the peer; None adds nothing.
        model: arguments from which the peer builds its model.
        export: the ONNX export; the file appears complete or not at all.
        names: names of the backends.

    Returns:
        All sides by name, the peer first.
    """
    if peer is None:
        return dict(ours)
    peer.ask("build", *model)
    if not export.path.exists():
        peer.take(export.zeros)
        unfinished = export.path.with_suffix(".unfinished")
        peer.ask("export", str(unfinished), export.inputs, export.outputs)
        unfinished.replace(export.path)
    sides = {PEER: peer, **ours}
    for name in names:
        function = backends.get(name).open(export.path, {"small": False})()
        sides[export_name(name)] = LocalSide(function, export.feed, export.read)
    return sides


def answers(
    sides: Mapping[str, Side], batches: Sequence[np.ndarray], inputs: str
) -> dict[str, list[np.ndarray]]:
    """Returns the logits of every side on each batch.

    Another entry contains the logits of TensorFlow with noise added to the inputs. Its error is a
    lower bound for that of computing with fewer bits.

    Args:
        sides: sides by name, `EAGER` among them.
        batches: inputs of the sides.
        inputs: name of the inputs in the entry with noise, such as "images".
    """
    rng = np.random.default_rng(0)
    noisy = [
        x + NOISE * np.float32(x.std()) * rng.standard_normal(x.shape).astype(np.float32)
        for x in batches
    ]
    found = {}
    for name, side, given in (
        *((name, side, batches) for name, side in sides.items()),
        (f"{EAGER}, {NOISE:.1%} noise on {inputs}", sides[EAGER], noisy),
    ):
        found[name] = []
        for batch in given:
            side.take(batch)
            found[name].append(side.logits())
    return found


def relative_error(values: np.ndarray, reference: np.ndarray) -> float:
    """Returns the norm of the difference divided by the norm of the reference."""
    return float(np.linalg.norm(values - reference) / np.linalg.norm(reference))
