"""wav2vec 2.0 with a CTC head: model, training, export, recognition, Hugging Face folders."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "checkout.py"))

from tools.exports import lazy_exports

_EXPORTS = {
    "build_model": "wav2vec2.model",
    "calibration_examples": "wav2vec2.session",
    "export_checkpoint": "wav2vec2.export",
    "export_source": "wav2vec2.export",
    "from_checkpoint": "wav2vec2.checkpoint",
    "from_pretrained": "wav2vec2.weights",
    "load": "wav2vec2.session",
    "load_config": "wav2vec2.config",
    "load_pytorch_weights": "wav2vec2.weights",
    "open_session": "wav2vec2.session",
    "pytorch_state_dict": "wav2vec2.weights",
    "save_pretrained": "wav2vec2.weights",
}
__all__ = list(_EXPORTS)

if TYPE_CHECKING:  # the same names as in _EXPORTS, for type checkers
    from wav2vec2.checkpoint import from_checkpoint as from_checkpoint
    from wav2vec2.config import load_config as load_config
    from wav2vec2.export import export_checkpoint as export_checkpoint
    from wav2vec2.export import export_source as export_source
    from wav2vec2.model import build_model as build_model
    from wav2vec2.session import calibration_examples as calibration_examples
    from wav2vec2.session import load as load
    from wav2vec2.session import open_session as open_session
    from wav2vec2.weights import from_pretrained as from_pretrained
    from wav2vec2.weights import load_pytorch_weights as load_pytorch_weights
    from wav2vec2.weights import pytorch_state_dict as pytorch_state_dict
    from wav2vec2.weights import save_pretrained as save_pretrained
else:
    __getattr__ = lazy_exports(__name__, _EXPORTS)
