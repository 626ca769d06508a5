"""Runtimes for converted models, behind one protocol."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from tools.errors import UserError

if TYPE_CHECKING:  # running a converted model needs none of it
    from tools.conversion.quantization import Examples
    from tools.conversion.request import ConversionRequest
    from tools.conversion.signature import Source

Function = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

# Packages by the name of the backend, in the order in which "auto" looks for what is installed.
_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "xla": "tensorflow"}
NAMES = tuple(_PACKAGES)


class Saved(NamedTuple):
    """What a backend wrote.

    Attributes:
        files: names below the artifact's folder, the one to open first.
        options: JSON-able, for `Backend.open`.
    """

    files: list[str]
    options: Mapping = {}


class Backend(Protocol):
    """A module `tools.conversion.backends.NAME`.

    Attributes:
        NAME: by which it is asked for.
        SMALL: the backend for signatures whose calls are so small that the way into the runtime
            counts, its own name or another's.
        STEPS: sizes in an octave that the inputs of a `paddable` signature are padded to, as every
            new shape costs; 0: they are not.
        NOT_APPLICABLE: parts of a request that it has no use for, each with the reason.
    """

    NAME: str
    SMALL: str
    STEPS: int
    NOT_APPLICABLE: Mapping[str, str]

    def versions(self) -> dict[str, str]:
        """Versions that an artifact depends on, by package."""

    def precisions(self) -> tuple[str, ...]:
        """What it can compute in, on this machine."""

    def save(
        self,
        source: "Source",
        request: "ConversionRequest",
        folder: Path,
        examples: "Examples | None",
    ) -> Saved:
        """Writes one signature.

        Args:
            source: the signature, with a number or a range for every dimension of its inputs.
            request: settled for this backend.
            folder: to write into.
            examples: to calibrate with, where the request is for a quantized model.
        """

    def open(self, path: Path, described: Mapping) -> Function:
        """Loads what `save` wrote.

        Args:
            path: its first file.
            described: the signature's part of the manifest: `name`, `options`, and `small` where
                the work of one call is so small that one thread does it best.
        """

    # What can be seen of the inside of a model; a runtime that shows none of it has neither.

    def layers(self, path: Path) -> list[str]:
        """Lists the layers of what `save` wrote that `probe` can show, in execution order."""

    def probe(self, path: Path, described: Mapping, layers: list[str]) -> Function:
        """Loads what `save` wrote with inner tensors as further outputs.

        Args:
            path: its first file.
            described: as of `open`.
            layers: to show, each of which gives an output of its name.
        """


def get(name: str) -> Backend:
    """Imports a backend.

    Raises:
        UserError: no such backend, or its package is not installed.
    """
    if name not in _PACKAGES:
        raise UserError.expected(f"a backend among {', '.join(NAMES)}", name, "Choose one of them")
    if importlib.util.find_spec(_PACKAGES[name]) is None:
        raise UserError.expected(
            f"the package {_PACKAGES[name]}", "none", "Run `bash run_scripts/setup.sh`"
        )
    return importlib.import_module(f"{__name__}.{name}")


def choose(asked: str) -> str:
    """Settles `auto` on the first backend that is installed; gives any other name back.

    ONNX Runtime comes before all where it has a provider for GPUs.
    """
    if asked != "auto":
        return asked
    installed = [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package)]
    if "onnxruntime" in installed and len(get("onnxruntime").PROVIDERS) > 1:
        return "onnxruntime"
    if installed:
        return installed[0]
    raise UserError.expected(
        f"one of the packages {', '.join(NAMES)}", "none", "Run `bash run_scripts/setup.sh`"
    )
