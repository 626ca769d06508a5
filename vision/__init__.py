"""Vision Conformer: `build_model`, and weights from and to the PyTorch implementations."""

import importlib
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "checkout.py"))

_EXPORTS = {
    "build_model": "vision.model",
    "calibration_examples": "vision.session",
    "export_checkpoint": "vision.export",
    "load": "vision.session",
    "load_config": "vision.config",
    "load_pytorch_weights": "vision.weights",
    "open_session": "vision.session",
    "pytorch_state_dict": "vision.weights",
    "save_pytorch_weights": "vision.weights",
}

__all__ = [
    "build_model",
    "calibration_examples",
    "export_checkpoint",
    "load",
    "load_config",
    "load_pytorch_weights",
    "open_session",
    "pytorch_state_dict",
    "save_pytorch_weights",
]


def __getattr__(name: str):
    """Loads on first use: a program that refuses its command line need not wait for a backend."""
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
