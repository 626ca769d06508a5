"""The sides of the vision benchmark: our runtimes, the PyTorch model, and its own ONNX export."""

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import numpy as np

from tools.benchmark import peer as peers
from tools.benchmark.turns import timed
from tools.benchmark.vision_models import BATCH, Models
from tools.conversion import backends
from tools.conversion.converter import convert
from tools.conversion.quantization import Quantization
from tools.conversion.request import ConversionRequest
from tools.inference.runner import Runner, load
from vision.classifier import feed
from vision.model import CHANNELS

HEADS = ("convolution_logits", "transformer_logits")
PEER = "pytorch eager"
EAGER = "tensorflow eager"
_PEER_INPUT = "input"


class Side(Protocol):
    """Something that classifies."""

    def take(self, images: np.ndarray) -> None:
        """Keeps `[B, H, W, 3]` for the calls that follow."""

    def time(self) -> float:
        """Gives the seconds of one forward pass."""

    def classify(self) -> np.ndarray:
        """Gives the logits of both heads, `[2, B, V]`."""


class LocalSide:
    """A runtime in this process.

    Args:
        run: maps inputs to outputs by name.
        pipeline: names and layout of the input; see `vision.classifier.feed`.
    """

    def __init__(self, run: Callable[[Mapping], Mapping], pipeline: dict):
        self._run, self._pipeline = run, pipeline

    def take(self, images):
        """See `Side`."""
        self._inputs = feed(self._pipeline, images)

    def time(self):
        """See `Side`."""
        return timed(self._run, self._inputs)()

    def classify(self):
        """See `Side`."""
        outputs = self._run(self._inputs)
        return np.stack([outputs[name] for name in HEADS])


class PeerSide:
    """The PyTorch model.

    Args:
        peer: that answers like `tools.benchmark.vision_peer`.
        folder: for the arrays.
    """

    def __init__(self, peer: peers.Peer, folder: Path):
        self.ask = peer.ask
        self._images, self._logits = (str(folder / f"{x}.npy") for x in ("images", "logits"))

    def take(self, images):
        """See `Side`."""
        np.save(self._images, images)
        self.ask("take", self._images)

    def time(self):
        """See `Side`; measured inside the peer."""
        return self.ask("time")

    def classify(self):
        """See `Side`."""
        self.ask("classify", self._logits)
        return np.load(self._logits)


@contextlib.contextmanager
def open_peer(checkout: str | None, threads: int, folder: Path) -> Iterator[PeerSide | None]:
    """Starts the PyTorch side; gives None, and says so, where there is none to start."""
    with peers.open_peer(
        "tools.benchmark.vision_peer",
        ["torch"],
        f"--peer_repo={checkout}",
        f"--threads={threads}",
        absent="" if checkout else "no --peer_repo",
    ) as peer:
        yield None if peer is None else PeerSide(peer, folder)


def describe(quantization: Quantization) -> str:
    """Writes settings in few words."""
    words = [quantization.algo, quantization.type, quantization.granularity]
    return " ".join((*words, *(f"-{x}" for x in quantization.keep_in_float)))


def open_runners(models: Models, values: SimpleNamespace, calibration) -> dict[str, Runner]:
    """Opens our sides, converting what was not converted before."""
    asked = Quantization(
        values.quantize_algo,
        values.quantize_type,
        values.quantize_granularity,
        tuple(filter(None, values.keep_in_float.split(","))),
    )
    kinds = [("fp32", None), *(("int8_fp32", x) for x in dict.fromkeys((Quantization(), asked)))]
    places = {EAGER: models.native}
    for backend in values.backends:
        for precision, quantization in kinds:
            if precision not in values.precisions:
                continue
            name = f"{backend} {precision}"
            name += f" {describe(quantization)}" if quantization else ""
            request = ConversionRequest(
                backend, precision, (1, max(*values.batches, BATCH)), quantization=quantization
            )
            place = models.folder / name.replace("/", "_").replace(" ", "-")
            places[name] = Path(convert(models.native, place, request, calibration)["directory"])
            gc.collect()  # a conversion leaves gigabytes in cycles
    return {name: load(place) for name, place in places.items()}


def open_sides(
    runners: Mapping[str, Runner], models: Models, peer: PeerSide | None, names: Sequence[str]
) -> dict[str, Side]:
    """Puts the peer's sides beside ours.

    Args:
        runners: ours.
        models: whose weights the peer takes.
        peer: None where there is none.
        names: of backends, for the peer's own ONNX export.
    """
    sides: dict[str, Side] = {x: LocalSide(y.run, y.pipeline) for x, y in runners.items()}
    if peer is None:
        return sides
    peer.ask("build", models.arguments, str(models.weights))
    path = models.folder / "peer.onnx"
    if not path.exists():
        size = next(iter(runners.values())).pipeline["preprocessing"]["image_size"]
        peer.take(np.zeros((1, size, size, CHANNELS), np.float32))
        peer.ask("export", str(path), _PEER_INPUT, HEADS)
    pipeline = {"layout": "NCHW", "input": _PEER_INPUT}
    for name in names:
        function = backends.get(name).open(path, {"small": False})
        sides[peer_name(name)] = LocalSide(function, pipeline)
    return {PEER: peer, **sides}


def peer_name(backend: str) -> str:
    """What a side is called that runs PyTorch's own export."""
    return f"{backend} fp32 on PyTorch's ONNX"
