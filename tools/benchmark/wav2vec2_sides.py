"""The sides of the wav2vec 2.0 benchmark."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tools.benchmark import peer as peers
from tools.benchmark.sides import LocalSide, PeerExport, PeerSide
from tools.benchmark.wav2vec2_models import NUM_SAMPLES, Models
from tools.inference.runner import Runner

_PEER_INPUT, _PEER_OUTPUT = "input_values", "logits"


@contextlib.contextmanager
def open_peer(threads: int, folder: Path) -> Iterator[PeerSide | None]:
    """Starts the PyTorch side. If that is not possible, prints the reason and yields None."""
    with peers.open_peer(
        "tools.benchmark.wav2vec2_peer", ["torch", "transformers"], f"--threads={threads}"
    ) as peer:
        yield None if peer is None else PeerSide(peer, folder)


def feed(waveforms: np.ndarray) -> dict[str, np.ndarray]:
    """Returns our inputs for a batch without padding."""
    return {
        "waveforms": waveforms,
        "lengths": np.full(len(waveforms), waveforms.shape[1], np.int32),
    }


def valid_logits(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the logits `[B, T, V]` without frames of padding; all rows have the same length."""
    return outputs["logits"][:, : outputs["logit_lengths"].max()]


def our_side(runner: Runner) -> LocalSide:
    """Returns the side of a runner."""
    return LocalSide(runner.run, feed, valid_logits)


def peer_export(models: Models, batch: int) -> PeerExport:
    """Returns the peer's export for batches of `batch` rows."""
    path = models.folder / f"peer_{batch}.onnx"
    zeros = np.zeros((batch, NUM_SAMPLES), np.float32)
    return PeerExport(path, zeros, _PEER_INPUT, _PEER_OUTPUT, lambda x: {_PEER_INPUT: x}, _only)


def _only(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the only output. OpenVINO may name it by another name of its tensor."""
    (logits,) = outputs.values()
    return logits
