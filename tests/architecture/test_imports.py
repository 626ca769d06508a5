"""The rules of the design about who may import whom, held over the syntax tree."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FAMILIES = {"conformer", "vision", "wav2vec2"}
PROGRAMS = {"tools.cli", "tools.benchmark", "tests"}
TABLE = "tools/families.py"  # of the families: programs and tests import it, it imports libraries
# Rule 3, arrows followed to their end; the leaves are free to all.
LEAVES = {
    "amounts",
    "errors",
    "files",
    "hashing",
    "launcher",
    "memory",
    "ranges",
    "signal_stack",
    "threads",
}
SIBLINGS = {
    "config": set(),
    "speech": set(),
    "weights": set(),
    "decoding": set(),
    "layers": set(),
    "training": {"config", "weights"},
    "conversion": {"config"},
    "inference": {"conversion", "decoding", "config", "weights"},
    "recognition": {"inference", "conversion", "decoding", "config", "speech", "training"},
    "serving": {"inference", "conversion", "config", "recognition", "speech"},
}
LAYERS = {"features", "subsampling", "attention", "convolution", "encoder", "prediction", "joint"}
LAYERS |= {"blocks", "feature_encoder", "masking", "mel", "running_statistics"}
RANK = {**dict.fromkeys(LAYERS, 0), "task": 2}  # everything not named here is of rank 1
PROGRAM_FILES = "train export infer infer_onnx eval eval_onnx compile preprocess postprocess "
PROGRAM_FILES += "show_augmentations activation_map flags find_budget"
RANK |= dict.fromkeys((*PROGRAM_FILES.split(), "__init__"), 3)
# Rule 4: who alone imports what.
RESERVED = {"horovod": ("tools/training/distributed.py",)}
RESERVED |= dict.fromkeys(("openvino", "onnxruntime", "nncf", "tf2onnx"), ("tools/conversion/",))
RESERVED |= dict.fromkeys(("torch", "transformers"), ("tools/benchmark/", "tests/golden/"))
RESERVED |= {"sherpa_onnx": ("tools/benchmark/",)}
OPEN_TO_TESTS = RESERVED.keys() - {"torch", "transformers"}
MODEL_CODE = {"keras", "numpy", "tools"} | FAMILIES | set(sys.stdlib_module_names)
# Rule 2: besides the table, what loads backends and optional packages by name.
COMPUTED = {
    TABLE,
    "tools/exports.py",
    "tools/decoding/language_model.py",
    "tools/benchmark/vision_peer.py",
}
FLAGS = {"tools/config/command_line.py"}  # rule 7: where flags are parsed
FLAGS |= {"tools/weights/pth.py"}  # stand-ins for what a checkpoint pickles
# Rule 6: what runs a converted model, and what that does without.
LIGHT = ("conformer.infer", "vision.infer", "wav2vec2.infer", "conformer.session")
LIGHT += ("vision.session", "wav2vec2.session", "tools.inference.runner", "tools.cli.run_bins")
HEAVY = {"tensorflow", "tensorflow_io", "keras", "sklearn", "librosa", "tf2onnx", "nncf"}
JSON = {"tools/files.py", "tools/benchmark/peer.py"}  # rule 10: the latter talks to a process
MOST_ARGUMENTS = 4  # rule 9: by place
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
    library = here[0] == "tools" and ".".join(here[:2]) not in PROGRAMS and path != TABLE
    part = there[1] if len(there) > 1 and there[0] == here[0] else None  # of the same package
    if family and there[0] in FAMILIES - {here[0]}:
        yield "1: a family imports no other family"
    if (library or path == TABLE) and there[0] in FAMILIES:
        yield "2: libraries import no family"
    if (library or family) and there[:2] == ["tools", "families"]:
        yield "2: programs above the families alone import their table"
    if not tests and {there[0], ".".join(there[:2])} & PROGRAMS - {".".join(here[:2])}:
        yield "2: programs and tests are imported by nobody but their own"
    if (
        library
        and part
        and part not in {"families", here[1]} | LEAVES | SIBLINGS.get(here[1], set())
    ):
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


def other_objections(path: str, tree: ast.AST) -> Iterator[str]:
    """What the rules have against a file for other reasons than its imports."""
    library = path.startswith("tools/") and not path.startswith(("tools/cli/", "tools/benchmark/"))
    top, _, rest = path.removesuffix(".py").partition("/")
    library |= top in FAMILIES and RANK.get(rest.partition("/")[0], 1) < 3
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            computed = node.args and not isinstance(node.args[0], ast.Constant)
            free = path in COMPUTED or path.startswith("tests/") or path.endswith("/__init__.py")
            module = getattr(getattr(node.func, "value", None), "id", "json")
            free_json = path in JSON or path.startswith("tests/")
            if called in {"dump", "dumps"} and module == "json" and not free_json:
                yield "10: JSON is written by tools.files.to_json, which knows no NaN"
            if called in {"import_module", "__import__"} and computed and not free:
                yield "2: the table of families alone loads a module by a computed name"
        name = getattr(node, "id", getattr(node, "attr", None))
        if library and name in {"SimpleNamespace", "Namespace"} and path not in FLAGS:
            yield "7: libraries take options, and never see flags"


def crowded(tree: ast.Module) -> Iterator[str]:
    """Functions and methods that take more than four arguments by place."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in (*tree.body, *(x for one in classes for x in one.body)):
        if isinstance(node, ast.FunctionDef):
            names = [x.arg for x in (*node.args.posonlyargs, *node.args.args)]
            if len(names) - (names[:1] in (["self"], ["cls"])) > MOST_ARGUMENTS:
                yield node.name


def circles(root: Path) -> list[str]:
    """Modules of the project that import each other at their top, in a circle."""
    files = {
        file.relative_to(root).as_posix().removesuffix(".py").replace("/", "."): file
        for top in sorted({"tools"} | FAMILIES)
        for file in root.glob(f"{top}/**/*.py")
    }
    files = {name.removesuffix(".__init__"): file for name, file in files.items()}
    arrows = {
        name: {
            other
            for other in imported_at_top(ast.parse(file.read_text("utf-8")), name, file)
            if other in files and other != name and not name.startswith(f"{other}.")
        }
        for name, file in files.items()
    }
    found, done = [], set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for other in sorted(arrows[name]):
                follow(other, (*path, name))
            done.add(name)

    for name in sorted(arrows):
        follow(name, ())
    return found


def imported_at_top(tree: ast.Module, name: str, file: Path) -> Iterator[str]:
    """What is imported when a module is, but not what is only for annotations."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(node, package)


def reached(root: Path, start: str) -> dict[str, str]:
    """All that importing a module imports, each with the module that does so first."""
    found, pending = {}, [(start, "")]
    while pending:
        name, by = pending.pop()
        if name in found:
            continue
        found[name] = by
        file = root / f"{name.replace('.', '/')}.py"
        file = file if file.is_file() else root / name.replace(".", "/") / "__init__.py"
        if file.is_file():
            tree = ast.parse(file.read_text("utf-8"))
            pending += [(other, name) for other in imported_at_top(tree, name, file)]
            pending += [(name.rpartition(".")[0], name)] if "." in name else []
    return found


def violations(root: Path) -> list[str]:
    """One line for each broken rule in the project under `root`."""
    found = []
    for top in sorted({"tools", "tests"} | FAMILIES):
        for file in sorted(root.glob(f"{top}/**/*.py")):
            path = file.relative_to(root).as_posix()
            if NAMELESS & set(path.removesuffix(".py").split("/")):
                found.append(f"{path}: 6: a name that says nothing")
            tree = ast.parse(file.read_text("utf-8"))
            for name in imported(tree, path.split("/")[:-1]):
                found += [f"{path} imports {name}: {rule}" for rule in objections(path, name)]
            found += [f"{path}: {rule}" for rule in other_objections(path, tree)]
            if top != "tests":
                found += [f"{path}: 9: {name} by keyword" for name in crowded(tree)]
    return [*found, *(f"circle: {circle}" for circle in circles(root))]


def test_project_keeps_the_rules(project):
    assert violations(project) == []


@pytest.mark.parametrize("name", LIGHT)
def test_running_a_converted_model_imports_no_tensorflow(project, name):
    found = reached(project, name)
    heavy = {other: by for other, by in found.items() if other.partition(".")[0] in HEAVY}
    assert heavy == {}


def test_a_circle_is_found(tmp_path):
    (tmp_path / "tools" / "speech").mkdir(parents=True)
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        file = tmp_path / "tools" / "speech" / f"{name}.py"
        file.write_text(f"from tools.speech.{other} import x\n")
    assert circles(tmp_path) == [
        "tools.speech.a -> tools.speech.b -> tools.speech.c -> tools.speech.a"
    ]
    (tmp_path / "tools" / "speech" / "c.py").write_text("def f():\n    import tools.speech.a\n")
    assert circles(tmp_path) == []


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
        ("tools/weights/assignment.py", "import tools.training.checkpoint", 3),
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
        ("tools/inference/flags.py", "import tools.families", 2),
        ("conformer/infer.py", "from tools import families", 2),
        ("tools/families.py", "import conformer", 2),
        ("tools/inference/a.py", "import importlib\nimportlib.import_module(f'{name}.infer')", 2),
        ("tools/inference/a.py", "from types import SimpleNamespace\nx: SimpleNamespace", 7),
        ("vision/opening.py", "from types import SimpleNamespace\nx: SimpleNamespace", 7),
        ("vision/opening.py", "from vision.flags import config_options", 3),
        ("tools/decoding/greedy.py", "import tools.inference.runner", 3),
        ("vision/blocks.py", "class A:\n    def f(self, a, b, c, d, e=1):\n        pass", 9),
        ("tools/layers/masking.py", "import tools.config.loader", 3),
        ("vision/infer.py", "import json\njson.dumps({})", 10),
        ("tools/inference/report.py", "from json import dump\ndump({}, file)", 10),
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
        ("tools/training/checkpoint.py", "import tools.weights.assignment"),
        ("tools/conversion/backends/openvino.py", "import openvino"),
        ("tools/benchmark/peers.py", "import torch, conformer.model"),
        ("tests/unit/test_serve.py", "import tools.cli.serve, horovod.tensorflow"),
        ("tools/cli/compare.py", "import tools.families, conformer.session"),
        ("tools/families.py", "import tools.inference.session, tools.training.checkpoint"),
        ("conformer/encoder.py", "from tools.layers.masking import sequence_mask"),
        ("vision/blocks.py", "class A:\n    def f(self, a, b, c, d, *, e=1):\n        pass"),
        ("vision/infer.py", "from types import SimpleNamespace\nx: SimpleNamespace"),
        ("vision/infer.py", "import json, pickle\njson.loads('1')\npickle.dumps(1)"),
        ("vision/export.py", "from vision.flags import config_options"),
        ("vision/__init__.py", "import importlib\nimportlib.import_module(f'vision.{name}')"),
    ],
)
def test_rules_allow(tmp_path, path, source):
    assert violations_of(tmp_path, path, source) == []
