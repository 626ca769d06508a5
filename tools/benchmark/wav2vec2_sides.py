"""The sides of the wav2vec 2.0 benchmark."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tools.benchmark import peer as peers
from tools.benchmark.sides import PEER, LocalSide, PeerSide, Side, export_name, export_once
from tools.benchmark.wav2vec2_models import NUM_SAMPLES, Models
from tools.conversion import backends
from tools.inference.runner import Runner

_PEER_INPUT, _PEER_OUTPUT = "input_values", "logits"


@contextlib.contextmanager
def open_peer(threads: int, folder: Path) -> Iterator[PeerSide | None]:
    """Starts the PyTorch side; gives None, and says so, where there is none to start."""
    with peers.open_peer(
        "tools.benchmark.wav2vec2_peer", ["torch", "transformers"], f"--threads={threads}"
    ) as peer:
        yield None if peer is None else PeerSide(peer, folder)


def feed(waveforms: np.ndarray) -> dict[str, np.ndarray]:
    """Gives a batch in which all samples are valid the names of our inputs."""
    return {
        "waveforms": waveforms,
        "lengths": np.full(len(waveforms), waveforms.shape[1], np.int32),
    }


def valid_logits(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Leaves out frames of padding, where all rows have the same length: `[B, T, V]`."""
    return outputs["logits"][:, : outputs["logit_lengths"].max()]


def open_sides(
    runners: Mapping[str, Runner],
    models: Models,
    peer: PeerSide | None,
    names: Sequence[str],
    batch: int,
) -> dict[str, Side]:
    """Puts the peer's sides beside ours.

    Args:
        runners: ours.
        models: whose weights the peer takes.
        peer: None where there is none.
        names: of backends, for the peer's own ONNX export.
        batch: rows, fixed in that as in ours.
    """
    sides: dict[str, Side] = {
        name: LocalSide(runner.run, feed, valid_logits) for name, runner in runners.items()
    }
    if peer is None:
        return sides
    peer.ask("build", str(models.hugging_face))
    path = models.folder / f"peer_{batch}.onnx"
    zeros = np.zeros((batch, NUM_SAMPLES), np.float32)
    export_once(peer, path, zeros, _PEER_INPUT, _PEER_OUTPUT)
    for name in names:
        function = backends.get(name).open(path, {"small": False})
        sides[export_name(name)] = LocalSide(function, lambda x: {_PEER_INPUT: x}, _only)
    return {PEER: peer, **sides}


def _only(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The one output: its tensor has several names in PyTorch's export, and OpenVINO gives any."""
    (logits,) = outputs.values()
    return logits
