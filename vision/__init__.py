"""Vision Conformer: `build_model`, and weights from and to the PyTorch implementations."""

import importlib

_EXPORTS = {
    "build_model": "vision.model",
    "load_pytorch_weights": "vision.weights",
    "pytorch_state_dict": "vision.weights",
    "save_pytorch_weights": "vision.weights",
}

__all__ = ["build_model", "load_pytorch_weights", "pytorch_state_dict", "save_pytorch_weights"]


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
