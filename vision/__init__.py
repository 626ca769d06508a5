"""Vision Conformer: `build_model`, and weights from and to the PyTorch implementations."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "checkout.py"))

from tools.exports import lazy_exports

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

__getattr__ = lazy_exports(__name__, _EXPORTS)
