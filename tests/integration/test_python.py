"""The models from Python: the documented examples, and starts without TensorFlow."""

import doctest
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

import conformer
import conformer.session
import tools.recognition.session
import vision
import vision.session
import wav2vec2
from tests.support.errors import refused
from tools.conversion import artifact, backends
from tools.conversion.machine import machine

HEAVY = ("tensorflow", "keras", "sklearn")
TRY = """
import json, sys
import {family}
with {family}.load({model!r}) as session:
    found = session.{call}({given!r})
print(json.dumps([str(found), [name for name in {heavy!r} if name in sys.modules]]))
"""


@pytest.fixture
def in_a_users_folder(project, tmp_path, monkeypatch):
    """Gives the working directory the names that the examples use."""
    (tmp_path / "conformer").symlink_to(project / "conformer")
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "tiny").symlink_to(project / "vision" / "pretrained" / "photos")
    with Image.open(project / "vision" / "pretrained" / "photos" / "curve.png") as image:
        image.convert("RGB").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("module", [conformer.session, vision.session, tools.recognition.session])
def test_the_documented_examples_hold(module, in_a_users_folder):
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
    if load is wav2vec2.load:
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf" / "config.json").write_text("{}")
        with refused(f"{tmp_path / 'hf'}"):
            load(tmp_path / "hf")
    other = "vision/pretrained/photos" if load is conformer.load else "conformer/pretrained/digits"
    with refused(match="an export of (conformer|vision|wav2vec2). Received: (conformer|vision)"):
        load(project / other)


@pytest.fixture(params=[conformer, vision, wav2vec2], ids=lambda family: family.__name__)
def family(request):
    return request.param


@pytest.fixture
def described(family):
    """What an export of a family says of itself before it is loaded."""
    return {
        "family": family.__name__,
        "sample_rate_hz": 16000,
        "min_seconds": 0.025,
        "max_seconds": 30.0,
        "hop_samples": 320,
        "convert": {"serving_default": {"dim_range": {}}},
    }


@pytest.fixture
def half_an_export(described, tmp_path):
    """A SavedModel whose graph ends early and whose weights are missing."""
    (tmp_path / "model" / "assets").mkdir(parents=True)
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    (tmp_path / "model" / "assets" / "pipeline.json").write_text(json.dumps(described))
    return tmp_path / "model"


def test_a_half_written_export_is_refused(family, half_an_export, tmp_path):
    place = tmp_path / "converted"
    for options in ({"run_eagerly": True}, {"converted_savedmodel_dir": str(place)}):
        with refused(f"a readable SavedModel in {half_an_export}"):
            family.load(half_an_export, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing else is left"


WHOLE = {
    "format": artifact.FORMAT,
    "request": {"precision": "fp32", "backend": "onnxruntime"},
    "machine": machine(),
    "versions": backends.get("onnxruntime").versions(),
    "signatures": {"serving_default": {"backend": "onnxruntime", "files": ["a.onnx"]}},
    "files": {"a.onnx": "0123"},
}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (json.dumps(WHOLE)[:40], "a converted model with a manifest.json"),
        ("[]", "a converted model with a manifest.json"),
        ('{"format": 0}', f"with format {artifact.FORMAT}. Received: format 0. Convert it again."),
        *(
            (
                json.dumps({name: part for name, part in WHOLE.items() if name != left_out}),
                f"a whole manifest.json. Received: one without {left_out}. Convert it again.",
            )
            for left_out in list(WHOLE)[1:]
        ),
        (json.dumps(WHOLE), "the a.onnx that was written. Received: another one or none."),
    ],
)
def test_a_half_written_artifact_is_refused(family, described, tmp_path, manifest, message):
    (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "pipeline.json").write_text(json.dumps(described))
    with refused(message):
        family.load(tmp_path)


def test_a_cache_that_cannot_be_written_is_told_before_a_conversion(
    family, half_an_export, monkeypatch, tmp_path, capsys
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with refused():
        family.load(half_an_export)
    assert f"room and permission to write {tmp_path / 'file'}" in capsys.readouterr().err
