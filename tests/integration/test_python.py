"""The models from Python: the documented examples, and starts without TensorFlow."""

import doctest
import json
import os
import subprocess
import sys

import pytest

import conformer
import conformer.session
import tools.recognition.session
import vision
import vision.session
import wav2vec2
from tests.support.errors import refused

HEAVY = ("tensorflow", "keras", "sklearn")
TRY = """
import json, sys
import {family}
with {family}.load({model!r}) as session:
    found = session.{call}({given!r})
print(json.dumps([str(found), [name for name in {heavy!r} if name in sys.modules]]))
"""


@pytest.mark.parametrize("module", [conformer.session, vision.session, tools.recognition.session])
def test_the_documented_examples_hold(module, project, monkeypatch):
    monkeypatch.chdir(project)
    results = doctest.testmod(module)
    assert results.attempted >= 2
    assert results.failed == 0


@pytest.mark.parametrize("family", ["conformer", "vision"])
def test_a_converted_model_starts_without_tensorflow(family, project):
    """The first process converts; the second one finds the conversion."""
    sample = project / "conformer" / "pretrained" / "digits" / "sample.flac"
    given = {
        "conformer": str(sample),
        "vision": str(project / "vision/pretrained/photos/curve.png"),
    }
    call = {"conformer": "transcribe", "vision": "classify"}[family]
    words = {"family": family, "model": None, "call": call, "given": given[family]}
    program = TRY.format(heavy=HEAVY, **words)
    answers = []
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", program],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
        answers.append(json.loads(result.stdout.splitlines()[-1]))
    assert answers[0][0] == answers[1][0]
    assert answers[1][1] == []
    assert "converted " not in result.stderr


@pytest.mark.parametrize("load", [conformer.load, vision.load, wav2vec2.load])
def test_what_is_no_model_is_refused_before_anything_is_loaded(load, tmp_path, project):
    with refused("does not exist"):
        load(tmp_path / "nowhere")
    with refused("a SavedModel directory that this project exported"):
        load(tmp_path)
    with refused("Use run_eagerly"):
        load(tmp_path, run_eager=True)
    (tmp_path / "manifest.json").write_text("{}")
    with refused("readable"):
        load(tmp_path)
    other = "vision/pretrained/photos" if load is conformer.load else "conformer/pretrained/digits"
    with refused(match="an export of|a vision model"):
        load(project / other)
