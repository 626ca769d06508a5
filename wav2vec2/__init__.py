"""wav2vec 2.0 with a CTC head: `build_model`, and folders of Hugging Face in and out."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "checkout.py"))

from tools.exports import lazy_exports

_EXPORTS = {
    "build_model": "wav2vec2.model",
    "calibration_examples": "wav2vec2.session",
    "export_checkpoint": "wav2vec2.export",
    "from_checkpoint": "wav2vec2.checkpoint",
    "from_pretrained": "wav2vec2.weights",
    "load": "wav2vec2.session",
    "load_config": "wav2vec2.config",
    "load_pytorch_weights": "wav2vec2.weights",
    "open_session": "wav2vec2.session",
    "pytorch_state_dict": "wav2vec2.weights",
    "save_pretrained": "wav2vec2.weights",
}

__all__ = [
    "build_model",
    "calibration_examples",
    "export_checkpoint",
    "from_checkpoint",
    "from_pretrained",
    "load",
    "load_config",
    "load_pytorch_weights",
    "open_session",
    "pytorch_state_dict",
    "save_pretrained",
]

__getattr__ = lazy_exports(__name__, _EXPORTS)
