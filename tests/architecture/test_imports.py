"""The six rules of the design about who may import whom, held over the syntax tree."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FAMILIES = {"conformer", "vision", "wav2vec2"}
PROGRAMS = {"tools.cli", "tools.benchmark", "tests"}
# Rule 3, arrows followed to their end; the leaves `tools.errors` and `tools.files` are free to all.
SIBLINGS = {
    "config": set(),
    "speech": set(),
    "weights": set(),
    "decoding": set(),
    "layers": set(),
    "training": {"config"},
    "conversion": {"config"},
    "inference": {"conversion", "decoding", "config"},
    "recognition": {"inference", "conversion", "decoding", "config", "speech", "training"},
    "serving": {"inference", "conversion", "config"},
}
LAYERS = {"features", "subsampling", "attention", "convolution", "encoder", "prediction", "joint"}
LAYERS |= {"blocks", "feature_encoder", "masking"}
RANK = {**dict.fromkeys(LAYERS, 0), "task": 2}  # everything not named here is of rank 1
RANK |= dict.fromkeys(("train", "export", "infer", "eval", "compile", "__init__"), 3)
# Rule 4: who alone imports what.
RESERVED = {"horovod": ("tools/training/distributed.py",)}
RESERVED |= dict.fromkeys(("openvino", "onnxruntime", "nncf", "tf2onnx"), ("tools/conversion/",))
RESERVED |= dict.fromkeys(("torch", "transformers"), ("tools/benchmark/", "tests/golden/"))
OPEN_TO_TESTS = RESERVED.keys() - {"torch", "transformers"}
MODEL_CODE = {"keras", "numpy", "tools"} | FAMILIES | set(sys.stdlib_module_names)
NAMELESS = {"util", "utils", "common", "helper", "helpers", "misc"}


def imported(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Dotted names of all that is imported; of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from [source, *(f"{source}.{alias.name}" for alias in node.names)]


def objections(path: str, name: str) -> Iterator[str]:
    """What the rules have against importing `name` in the file `path`."""
    here, there = path.removesuffix(".py").split("/"), name.split(".")
    family, tests = here[0] in FAMILIES, here[0] == "tests"
    library = here[0] == "tools" and ".".join(here[:2]) not in PROGRAMS
    part = there[1] if len(there) > 1 and there[0] == here[0] else None  # of the same package
    if family and there[0] in FAMILIES - {here[0]}:
        yield "1: a family imports no other family"
    if library and there[0] in FAMILIES:
        yield "2: libraries import no family"
    if not tests and {there[0], ".".join(there[:2])} & PROGRAMS - {".".join(here[:2])}:
        yield "2: programs and tests are imported by nobody but their own"
    if library and part and part not in {"errors", "files", here[1]} | SIBLINGS.get(here[1], set()):
        yield f"3: tools.{here[1]} does not know tools.{part}"
    if family and part:
        mine, other = RANK.get(here[1], 1), RANK.get(part, 1)
        if other > mine or (mine == 0 and other != 0):
            yield "3: layers < model < task < train, and layers know no config"
    owners = RESERVED.get(there[0], "")
    if owners and not path.startswith(owners) and not (tests and there[0] in OPEN_TO_TESTS):
        yield f"4: only {' and '.join(owners)} may"
    if family and here[-1] in LAYERS | {"model"} and there[0] not in MODEL_CODE:
        yield "5: model code imports keras and numpy only"


def violations(root: Path) -> list[str]:
    """One line for each broken rule in the project under `root`."""
    found = []
    for top in sorted({"tools", "tests"} | FAMILIES):
        for file in sorted(root.glob(f"{top}/**/*.py")):
            path = file.relative_to(root).as_posix()
            if NAMELESS & set(path.removesuffix(".py").split("/")):
                found.append(f"{path}: 6: a name that says nothing")
            for name in imported(ast.parse(file.read_text("utf-8")), path.split("/")[:-1]):
                found += [f"{path} imports {name}: {rule}" for rule in objections(path, name)]
    return found


def test_project_keeps_the_rules(project):
    assert violations(project) == []


def violations_of(root: Path, path: str, source: str) -> list[str]:
    """Those of a project with one file."""
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(source, "utf-8")
    return violations(root)


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("conformer/task.py", "import vision.model", 1),
        ("tools/training/loop.py", "from conformer import model", 2),
        ("conformer/train.py", "from tools.cli import describe", 2),
        ("tools/recognition/program.py", "from wav2vec2.decoding import Decoder", 2),
        ("tools/recognition/training.py", "import conformer.task", 2),
        ("tools/cli/serve.py", "from tests import conftest", 2),
        ("tools/speech/audio.py", "from tools.config import loader", 3),
        ("tools/config/loader.py", "from ..training import loop", 3),
        ("tools/training/loop.py", "from tools import inference", 3),
        ("tools/training/loop.py", "from tools.recognition import task", 3),
        ("tools/speech/batches.py", "import tools.recognition.training_data", 3),
        ("tools/recognition/task.py", "import tools.weights.files", 3),
        ("conformer/encoder.py", "from conformer.config import Config", 3),
        ("conformer/joint.py", "from . import model", 3),
        ("conformer/model.py", "from conformer.task import Task", 3),
        ("wav2vec2/task.py", "from wav2vec2 import train", 3),
        ("tools/training/loop.py", "def late():\n    import horovod.tensorflow", 4),
        ("tools/inference/runner.py", "import openvino as ov", 4),
        ("tests/unit/test_model.py", "import torch", 4),
        ("vision/blocks.py", "import tensorflow as tf", 5),
        ("conformer/model.py", "from tensorflow import nn", 5),
        ("tools/speech/utils.py", "", 6),
        ("vision/common/layers.py", "", 6),
    ],
)
def test_rule_bites(tmp_path, path, source, rule):
    found = violations_of(tmp_path, path, source)
    assert found
    assert all(f": {rule}: " in line for line in found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("conformer/task.py", "import tensorflow, conformer.model, tools.speech.audio"),
        ("conformer/model.py", "import keras, numpy, math\nfrom conformer import encoder"),
        ("conformer/encoder.py", "from .attention import Attention\nimport tools.errors"),
        ("wav2vec2/infer.py", "import tools.recognition.program, wav2vec2.decoding"),
        ("tools/recognition/task.py", "import tools.speech.scoring, tools.training.distributed"),
        (
            "tools/recognition/program.py",
            "import tools.inference.report, tools.conversion.quantization",
        ),
        ("tools/training/distributed.py", "import horovod.tensorflow, tools.config.loader"),
        ("tools/conversion/backends/openvino.py", "import openvino"),
        ("tools/benchmark/peers.py", "import torch, conformer.model"),
        ("tests/unit/test_serve.py", "import tools.cli.serve, horovod.tensorflow"),
    ],
)
def test_rules_allow(tmp_path, path, source):
    assert violations_of(tmp_path, path, source) == []
