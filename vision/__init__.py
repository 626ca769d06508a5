"""Vision Conformer: configuration, model, training, export, classification, PyTorch weights."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "checkout.py"))

from tools.exports import lazy_exports

_EXPORTS = {
    "build_model": "vision.model",
    "calibration_examples": "vision.session",
    "export_checkpoint": "vision.export",
    "export_source": "vision.export",
    "load": "vision.session",
    "load_config": "vision.config",
    "load_pytorch_weights": "vision.weights",
    "open_session": "vision.session",
    "pytorch_state_dict": "vision.weights",
    "save_pytorch_weights": "vision.weights",
}
__all__ = list(_EXPORTS)

if TYPE_CHECKING:  # the same names as in _EXPORTS, for type checkers
    from vision.config import load_config as load_config
    from vision.export import export_checkpoint as export_checkpoint
    from vision.export import export_source as export_source
    from vision.model import build_model as build_model
    from vision.session import calibration_examples as calibration_examples
    from vision.session import load as load
    from vision.session import open_session as open_session
    from vision.weights import load_pytorch_weights as load_pytorch_weights
    from vision.weights import pytorch_state_dict as pytorch_state_dict
    from vision.weights import save_pytorch_weights as save_pytorch_weights
else:
    __getattr__ = lazy_exports(__name__, _EXPORTS)
