"""Speech Conformer transducer: configuration, model, training, export and recognition."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "checkout.py"))

from tools.exports import lazy_exports

_EXPORTS = {
    "build_model": "conformer.model",
    "calibration_examples": "conformer.session",
    "export_checkpoint": "conformer.export",
    "export_source": "conformer.export",
    "load": "conformer.session",
    "load_config": "conformer.config",
    "open_session": "conformer.session",
}
__all__ = list(_EXPORTS)

if TYPE_CHECKING:  # the same names as in _EXPORTS, for type checkers
    from conformer.config import load_config as load_config
    from conformer.export import export_checkpoint as export_checkpoint
    from conformer.export import export_source as export_source
    from conformer.model import build_model as build_model
    from conformer.session import calibration_examples as calibration_examples
    from conformer.session import load as load
    from conformer.session import open_session as open_session
else:
    __getattr__ = lazy_exports(__name__, _EXPORTS)
