"""Speech Conformer transducer: `load_config`, `build_model`; programs train, export and run it."""

import importlib
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "checkout.py"))

_EXPORTS = {
    "build_model": "conformer.model",
    "calibration_examples": "conformer.session",
    "export_checkpoint": "conformer.export",
    "load": "conformer.session",
    "load_config": "conformer.config",
    "open_session": "conformer.session",
}

__all__ = [
    "build_model",
    "calibration_examples",
    "export_checkpoint",
    "load",
    "load_config",
    "open_session",
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
