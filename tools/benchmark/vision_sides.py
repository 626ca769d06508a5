"""The sides of the vision benchmark."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tools.benchmark import peer as peers
from tools.benchmark.sides import PEER, LocalSide, PeerSide, Side, export_name, export_once
from tools.benchmark.vision_models import Models
from tools.conversion import backends
from tools.inference.runner import Runner
from vision.classifier import feed
from vision.model import CHANNELS

HEADS = ("convolution_logits", "transformer_logits")
_PEER_INPUT = "input"


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
    sides: dict[str, Side] = {x: _side(y.run, y.pipeline) for x, y in runners.items()}
    if peer is None:
        return sides
    peer.ask("build", models.arguments, str(models.weights))
    path = models.folder / "peer.onnx"
    size = next(iter(runners.values())).pipeline["preprocessing"]["image_size"]
    zeros = np.zeros((1, size, size, CHANNELS), np.float32)
    export_once(peer, path, zeros, _PEER_INPUT, HEADS)
    pipeline = {"layout": "NCHW", "input": _PEER_INPUT}
    for name in names:
        function = backends.get(name).open(path, {"small": False})
        sides[export_name(name)] = _side(function, pipeline)
    return {PEER: peer, **sides}


def _side(run, pipeline: dict) -> LocalSide:
    """Answers with the logits of both heads, `[2, B, V]`."""
    return LocalSide(run, functools.partial(feed, pipeline), _logits)


def _logits(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.stack([outputs[name] for name in HEADS])
