"""ONNX Runtime sends and stores no usage data."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["tools.conversion.backends", "tools.inference.opening"])
def test_onnxruntime_writes_nothing_into_the_cache(module, project, tmp_path):
    code = f"import {module}; from tools.conversion import backends; backends.get('onnxruntime')"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(project), "HOME": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []
