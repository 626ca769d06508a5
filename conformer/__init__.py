"""Speech Conformer transducer: `load_config`, `build_model`; programs train, export and run it."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "checkout.py"))

from tools.exports import lazy_exports

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

__getattr__ = lazy_exports(__name__, _EXPORTS)
