"""Runtimes for converted models; see `tools.conversion.protocol.Backend`."""

import importlib
import importlib.util

from tools.conversion.protocol import Backend
from tools.errors import UserError

# Package of each backend, in the order in which `auto` looks for installed packages.
_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "xla": "tensorflow"}
NAMES = tuple(_PACKAGES)


def get(name: str) -> Backend:
    """Imports the module of a backend.

    Args:
        name: name of the backend.

    Raises:
        UserError: the backend does not exist, or its package is not installed.
    """
    if name not in _PACKAGES:
        raise UserError.expected(f"a backend among {', '.join(NAMES)}", name, "Choose one of them")
    if not is_installed(name):
        raise UserError.expected(
            f"the package {_PACKAGES[name]}", "none", "Run `bash run_scripts/setup.sh`"
        )
    return importlib.import_module(f"{__name__}.{name}")


def is_installed(name: str) -> bool:
    """Returns whether the package of a backend is installed."""
    return importlib.util.find_spec(_PACKAGES[name]) is not None


def choose(asked: str) -> str:
    """Returns the first installed backend for `auto`, and other names unchanged.

    ONNX Runtime comes first if its GPU build is installed.

    Args:
        asked: name of a backend, or `auto`.

    Raises:
        UserError: no backend is installed.
    """
    if asked != "auto":
        return asked
    installed = [name for name in NAMES if is_installed(name)]
    if "onnxruntime" in installed and len(get("onnxruntime").PROVIDERS) > 1:
        return "onnxruntime"
    if installed:
        return installed[0]
    raise UserError.expected(
        f"one of the packages {', '.join(NAMES)}", "none", "Run `bash run_scripts/setup.sh`"
    )
