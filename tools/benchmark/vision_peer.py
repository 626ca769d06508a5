"""Runs the vision Conformer of PyTorch in a separate process that replies to requests.

`tools.benchmark.vision` and `vision_training` start it. The process imports the official module
`conformer` instead of our package of the same name.
"""

import importlib
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from tools.benchmark.peer import answer_requests, answers
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.weights.files import read_weights

_OPSET = 18


def import_conformer(checkout: Path):
    """Imports the official class, with replacements for the two symbols that it imports from timm.

    `DropPath` is never called, because the drop path rate is zero.

    Raises:
        UserError: the checkout has no such class.
    """
    for name in ("timm", "timm.models", "timm.models.layers"):
        sys.modules[name] = layers = types.ModuleType(name)
    layers.DropPath, layers.trunc_normal_ = torch.nn.Identity, torch.nn.init.trunc_normal_
    sys.path.insert(0, str(checkout))
    try:
        return importlib.import_module("conformer").Conformer
    except (ImportError, AttributeError) as error:
        raise UserError.expected(
            "a checkout of pengzhiliang/Conformer", f"{checkout}: {error}", "Correct --peer_repo"
        ) from error


class Peer:
    """The model. Every method is a request, and its return value is the reply."""

    def __init__(self, checkout: Path):
        self._class = import_conformer(checkout)

    def versions(self) -> dict[str, str]:
        """Returns the versions of the packages."""
        return {"torch": torch.__version__}

    def build(self, arguments: Mapping, weights: str) -> None:
        """Builds a model from arguments of the official class and a file of official weights."""
        model = self._class(**arguments)
        tensors = read_weights(weights)
        model.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
        self._model = model.eval().to(memory_format=torch.channels_last)

    def take(self, images: str) -> None:
        """Reads the images of the next requests: an `.npy` file of `[B, H, W, 3]`."""
        # In PyTorch's terms: shape NCHW, memory format channels_last.
        self._images = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2)

    def logits(self, path: str) -> None:
        """Writes the logits of both heads, `[2, B, V]`, as `.npy`."""
        with torch.inference_mode():
            np.save(path, np.stack([x.numpy() for x in self._model(self._images)]))

    def time(self) -> float:
        """Runs one forward pass and returns its seconds."""
        with torch.inference_mode():
            started = time.perf_counter()
            self._model(self._images)
            return time.perf_counter() - started

    def prepare_training(self, targets: str, optimizer: Mapping) -> None:
        """Creates the optimizer of a training that starts from the current weights.

        Args:
            targets: `.npy` file of targets `[B, V]` for the images of `take`.
            optimizer: settings by our names. Weight decay applies to kernels only.
        """
        self._targets = torch.from_numpy(np.load(targets))
        self._clip_norm = optimizer["clip_norm"]
        self._parameters = list(self._model.train().parameters())
        named = [(name == "cls_token", x) for name, x in self._model.named_parameters()]
        kernels = [x for is_token, x in named if x.ndim > 1 and not is_token]
        others = [x for is_token, x in named if x.ndim == 1 or is_token]
        self._optimizer = torch.optim.AdamW(
            [{"params": kernels}, {"params": others, "weight_decay": 0.0}],
            lr=optimizer["learning_rate"],
            betas=(optimizer["beta_1"], optimizer["beta_2"]),
            eps=optimizer["epsilon"],
            weight_decay=optimizer["weight_decay"],
            fused=True,  # the fastest of its three forms on a CPU
        )

    def train(self) -> tuple[float, float]:
        """Runs one training step on the images; returns its seconds and its loss."""
        started = time.perf_counter()
        self._optimizer.zero_grad()
        cross_entropy = torch.nn.functional.cross_entropy
        loss = sum(cross_entropy(x, self._targets) for x in self._model(self._images)) / 2
        loss.backward()
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimizer.step()
        loss = loss.item()
        return time.perf_counter() - started, loss

    def export(self, path: str, inputs: str, outputs: list[str]) -> None:
        """Writes PyTorch's own ONNX export, with a variable batch size."""
        names = (inputs, *outputs)
        torch.onnx.export(
            self._model.to(memory_format=torch.contiguous_format),
            (self._images[:1].contiguous(),),
            path,
            dynamo=False,  # the other exporter needs another package
            opset_version=_OPSET,
            input_names=[inputs],
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in names},
        )
        self._model.to(memory_format=torch.channels_last)


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.vision_peer",
        "Runs the PyTorch model for tools.benchmark.vision, which starts this program.",
        example="--peer_repo=CHECKOUT --threads=2",
    )
    flags.group("Model")
    about = "Checkout of pengzhiliang/Conformer."
    flags.string("peer_repo", None, about, default_text=REQUIRED)
    flags.group("Runtime")
    flags.integer("threads", 2, "Threads of PyTorch.")
    values, _ = flags.parse(argv)
    with answers() as stream:
        torch.set_num_threads(values.threads)
        answer_requests(Peer(Path(values.peer_repo).resolve()), stream)
    return 0


if __name__ == "__main__":
    run(main)
