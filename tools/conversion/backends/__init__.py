"""Runtimes for converted models, behind one protocol."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tools.conversion.saved_model import TensorSpec
from tools.errors import UserError

if TYPE_CHECKING:  # running a converted model needs none of it
    import onnx

Function = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

# By name, in the order in which "auto" looks for what is installed; both packages and modules.
_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
NAMES = tuple(_PACKAGES)


class Backend(Protocol):
    """A module `tools.conversion.backends.NAME`.

    Attributes:
        NAME: by which it is asked for.
        PRECISIONS: what it can compute in.
        SMALL: the backend for signatures whose calls are so small that the way into the runtime
            counts, its own name or another's.
    """

    NAME: str
    PRECISIONS: tuple[str, ...]
    SMALL: str

    def versions(self) -> dict[str, str]:
        """Versions that an artifact depends on, by package."""

    def save(
        self, model: "onnx.ModelProto", specs: Sequence[TensorSpec], precision: str, stem: Path
    ) -> list[str]:
        """Writes a cleaned ONNX model for the given inputs.

        Args:
            model: of one signature.
            specs: its inputs, with a number or a range for every dimension.
            precision: one of `PRECISIONS`.
            stem: path of the files without their suffixes.

        Returns:
            Names of the files, the one to open first.
        """

    def open(self, path: Path, small: bool) -> Function:
        """Loads what `save` wrote.

        Args:
            path: its first file.
            small: the work of one call is so small that one thread does it best.
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
    """Settles `auto` on the first backend that is installed; gives any other name back."""
    if asked != "auto":
        return asked
    for name, package in _PACKAGES.items():
        if importlib.util.find_spec(package) is not None:
            return name
    raise UserError.expected(
        f"one of the packages {', '.join(NAMES)}", "none", "Run `bash run_scripts/setup.sh`"
    )
