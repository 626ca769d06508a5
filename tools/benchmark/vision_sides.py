"""The sides of the vision benchmark."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tools.benchmark import peer as peers
from tools.benchmark.sides import LocalSide, PeerExport, PeerSide
from tools.benchmark.vision_models import Models
from tools.inference.runner import Runner
from vision.model import CHANNELS
from vision.session import feed

HEADS = ("convolution_logits", "transformer_logits")
_PEER_INPUT = "input"


@contextlib.contextmanager
def open_peer(checkout: str | None, threads: int, folder: Path) -> Iterator[PeerSide | None]:
    """Starts the PyTorch side. If that is not possible, prints the reason and yields None."""
    with peers.open_peer(
        "tools.benchmark.vision_peer",
        ["torch"],
        f"--peer_repo={checkout}",
        f"--threads={threads}",
        absent="" if checkout else "no --peer_repo",
    ) as peer:
        yield None if peer is None else PeerSide(peer, folder)


def our_side(runner: Runner) -> LocalSide:
    """Returns the side of a runner; its logits are those of both heads, `[2, B, V]`."""
    return LocalSide(runner.run, functools.partial(feed, runner.pipeline), _logits)


def peer_export(models: Models, image_size: int) -> PeerExport:
    """Returns the export of the official model, with both heads as outputs."""
    zeros = np.zeros((1, image_size, image_size, CHANNELS), np.float32)
    fed = functools.partial(feed, {"layout": "NCHW", "input": _PEER_INPUT})
    return PeerExport(models.folder / "peer.onnx", zeros, _PEER_INPUT, HEADS, fed, _logits)


def _logits(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.stack([outputs[name] for name in HEADS])
