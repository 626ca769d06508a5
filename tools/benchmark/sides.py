"""What a benchmark compares: our runtimes, a PyTorch model, and that one's own ONNX export."""

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
NOISE = 1e-3  # in standard deviations


class Side(Protocol):
    """Something that computes logits."""

    def take(self, inputs: np.ndarray) -> None:
        """Keeps a batch for the calls that follow."""

    def time(self) -> float:
        """Gives the seconds of one forward pass."""

    def logits(self) -> np.ndarray:
        """Gives the logits of the batch."""


class LocalSide:
    """A runtime in this process.

    Args:
        run: maps inputs to outputs by name.
        feed: makes the inputs of a batch.
        read: takes the logits from the outputs.
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
    """A model in a process of its own.

    Args:
        peer: answers `take`, `time` and `logits`, arrays through files.
        folder: for the arrays.
    """

    def __init__(self, peer: Peer, folder: Path):
        self.ask = peer.ask
        self._inputs, self._logits = (str(folder / f"{x}.npy") for x in ("inputs", "logits"))

    def take(self, inputs):
        """See `Side`."""
        np.save(self._inputs, inputs)
        self.ask("take", self._inputs)

    def time(self):
        """See `Side`; measured inside the peer."""
        return self.ask("time")

    def logits(self):
        """See `Side`."""
        self.ask("logits", self._logits)
        return np.load(self._logits)


def describe(quantization: Quantization) -> str:
    """Writes settings in few words."""
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
    """Opens our sides, converting what was not converted before.

    Args:
        native: the SavedModel.
        folder: for what is converted.
        values: with the flags of `comparison.add_flags`.
        shapes: whose `batch` and `dim_range` count.
        calibration: to quantize with.
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
            gc.collect()  # a conversion leaves gigabytes in cycles
    return {name: load(place) for name, place in places.items()}


def export_name(backend: str) -> str:
    """What a side is called that runs PyTorch's own export."""
    return f"{backend} fp32 on PyTorch's ONNX"


class PeerExport(NamedTuple):
    """The ONNX export that PyTorch makes of a peer's model, and how to run it.

    Attributes:
        path: to write, unless it is there already.
        zeros: a batch of the shape to export for.
        inputs: name of the input.
        outputs: of the output, or of several.
        feed: see `LocalSide`.
        read: likewise.
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
    """Puts a peer beside our sides, and what the backends make of its own export.

    Args:
        ours: by name.
        peer: None where there is none.
        model: what the peer builds its model of.
        export: written whole or not at all.
        names: of backends.
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
        function = backends.get(name).open(export.path, {"small": False})
        sides[export_name(name)] = LocalSide(function, export.feed, export.read)
    return sides


def answers(
    sides: Mapping[str, Side], batches: Sequence[np.ndarray], inputs: str
) -> dict[str, list[np.ndarray]]:
    """Gives the logits of every side on each batch.

    One entry more has what the weights make of noise on the inputs, which bounds what any way to
    compute with fewer bits can reach.

    Args:
        sides: by name, `EAGER` among them.
        batches: to compute with.
        inputs: what they are, in one word.
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
    """The norm of the difference over the norm."""
    return float(np.linalg.norm(values - reference) / np.linalg.norm(reference))
