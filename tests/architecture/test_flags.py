"""Flags stay in the programs that parse them: followed through every call of the project.

The rule over names in `test_imports.py` misses flags in an argument without an annotation. Here a
value that `CommandLine.parse` gives is followed by its names, through the functions of programs,
until it reaches a library. A program is a file of `tools/cli` or `tools/benchmark`, a file of a
family with a `main`, or a family's `flags.py`, which makes options of flags.
"""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

FAMILIES = ("conformer", "vision", "wav2vec2")
MAKER = "tools.config.making_options.from_flags"
COPIES = {"vars", "dict", "SimpleNamespace"}  # what they make of flags are flags
READERS = COPIES | {"getattr", "hasattr"}
FLAGS, PAIR = "flags", "flags and the rest"  # what `parse` gives is a pair


class Module(NamedTuple):
    """A file of the project.

    Attributes:
        path: in the project.
        name: dotted.
        functions: by name, methods as `Class.method`.
        imports: dotted names by what they are called in the file.
    """

    path: str
    name: str
    functions: dict[str, ast.FunctionDef]
    imports: dict[str, str]

    @property
    def is_program(self) -> bool:
        top, _, rest = self.path.partition("/")
        if top == "tools":
            return rest.startswith(("cli/", "benchmark/"))
        return rest == "flags.py" or "main" in self.functions


def read_module(root: Path, file: Path) -> Module:
    path = file.relative_to(root).as_posix()
    tree, functions, imports = ast.parse(file.read_text("utf-8")), {}, {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == "main":  # of a program whose body is a library's
                functions["main"] = ast.parse("def main(): pass").body[0]
        elif isinstance(node, ast.ClassDef):
            methods = (x for x in node.body if isinstance(x, ast.FunctionDef))
            functions |= {f"{node.name}.{x.name}": x for x in methods}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imports |= {x.asname or x.name: f"{node.module}.{x.name}" for x in node.names}
        elif isinstance(node, ast.Import):
            imports |= {x.asname: x.name for x in node.names if x.asname}
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return Module(path, name, functions, imports)


class Flow:
    """Which parameters and results of the functions of programs are flags.

    Args:
        root: of the project.
    """

    def __init__(self, root: Path):
        files = [x for top in ("tools", *FAMILIES) for x in sorted(root.glob(f"{top}/**/*.py"))]
        self.modules = {module.name: module for module in (read_module(root, x) for x in files)}
        self.parameters: dict[tuple[str, str], set[str]] = {}
        self.results: dict[tuple[str, str], str] = {}
        self.objections: set[str] = set()
        known = None
        while known != (known := (str(self.parameters), str(self.results))):
            for module in self.modules.values():
                for name in module.functions:
                    self._follow(module, name)

    def _follow(self, module: Module, name: str) -> None:
        scope = Scope(self, module, name)
        nodes = list(ast.walk(module.functions[name]))
        count = -1
        while count != (count := len(scope.kinds)):
            for node in nodes:
                scope.bind(node)
        for node in nodes:
            scope.judge(node)


class Scope:
    """The names of one function that hold flags.

    Args:
        flow: of the project.
        module: with the function.
        name: of the function.
    """

    def __init__(self, flow: Flow, module: Module, name: str):
        self._flow, self._module, self._name = flow, module, name
        self.kinds = dict.fromkeys(flow.parameters.get((module.name, name), ()), FLAGS)
        arguments = module.functions[name].args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.annotation and ast.unparse(argument.annotation) == "SimpleNamespace":
                self.kinds[argument.arg] = FLAGS

    def kind(self, node: ast.expr | None) -> str | None:
        """Tells whether an expression is flags, or a pair with flags in front."""
        if isinstance(node, ast.Name):
            return self.kinds.get(node.id)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr == "parse":
                return PAIR
            values = [*node.args, *(x.value for x in node.keywords)]
            if isinstance(node.func, ast.Name) and node.func.id in COPIES:
                return FLAGS if any(self.kind(x) == FLAGS for x in values) else None
            found, function, _ = self._callee(node.func)
            return self._flow.results.get((found.name, function)) if found else None
        if isinstance(node, ast.BinOp):
            return FLAGS if FLAGS in (self.kind(node.left), self.kind(node.right)) else None
        if isinstance(node, ast.Tuple):
            return PAIR if node.elts and self.kind(node.elts[0]) == FLAGS else None
        if isinstance(node, ast.Subscript) and self.kind(node.value) == PAIR:
            first = isinstance(node.slice, ast.Constant) and node.slice.value == 0
            return FLAGS if first else None
        return None

    def bind(self, node: ast.AST) -> None:
        """Notes names that are assigned flags, and what the function returns."""
        if isinstance(node, ast.Return) and (kind := self.kind(node.value)):
            self._flow.results[self._module.name, self._name] = kind
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            return
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            kind = self.kind(node.value)
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for one, value in zip(target.elts, node.value.elts, strict=False):
                    if isinstance(one, ast.Name) and (kind := self.kind(value)):
                        self.kinds[one.id] = kind
            elif isinstance(target, ast.Tuple) and kind == PAIR:
                self.kinds[target.elts[0].id] = FLAGS
            elif isinstance(target, ast.Name) and kind:
                self.kinds[target.id] = kind

    def judge(self, node: ast.AST) -> None:
        """Follows flags into a call, and objects to those that are written to or kept."""
        of_something = ast.Attribute | ast.Subscript
        if isinstance(node, of_something) and not isinstance(node.ctx, ast.Load):
            if self.kind(node.value) == FLAGS:
                self._object("flags are written to", node)
        elif isinstance(node, ast.Assign) and self.kind(node.value):
            if any(isinstance(target, of_something) for target in node.targets):
                self._object("flags are kept in an object", node)
        elif isinstance(node, ast.Call):
            for place, argument in enumerate(node.args):
                starred = isinstance(argument, ast.Starred)
                kind = self.kind(argument.value if starred else argument)
                if kind == (PAIR if starred else FLAGS):
                    self._give(node, place)
            for keyword in node.keywords:
                if self.kind(keyword.value) == FLAGS:
                    self._give(node, keyword.arg)

    def _give(self, call: ast.Call, place: int | str | None) -> None:
        """Follows flags into one argument of a call."""
        if isinstance(call.func, ast.Name) and call.func.id in READERS:
            return
        module, name, dotted = self._callee(call.func)
        if dotted == MAKER:
            return
        if module is None or not module.is_program:
            self._object(f"flags are given to {dotted}", call)
            return
        arguments = module.functions[name].args
        names = [x.arg for x in (*arguments.posonlyargs, *arguments.args)]
        names = names[1:] if "." in name else names
        if isinstance(place, int):
            place = names[place] if place < len(names) else arguments.vararg.arg
        self._flow.parameters.setdefault((module.name, name), set()).add(place)

    def _callee(self, node: ast.expr) -> tuple[Module | None, str, str]:
        """The module and the name of a function of the project, and what it is called."""
        words = ast.unparse(node)
        first, _, rest = words.partition(".")
        own = f"{self._name.rpartition('.')[0]}.{rest}" if first == "self" else words
        if own in self._module.functions:
            return self._module, own, f"{self._module.name}.{own}"
        dotted = ".".join(filter(None, (self._module.imports.get(first, first), rest)))
        place, _, name = dotted.rpartition(".")
        module = self._flow.modules.get(place)
        return (module if module and name in module.functions else None), name, dotted

    def _object(self, problem: str, node: ast.AST) -> None:
        self._flow.objections.add(f"{self._module.path}:{node.lineno}: {problem}")


def test_no_flags_reach_a_library(project):
    assert sorted(Flow(project).objections) == []


LIBRARY = "def open_model(values, *rest):\n    return values.model\n"
PROGRAM = """
from types import SimpleNamespace

from tools.config.making_options import from_flags
from vision import opening
from vision.flags import make_options
from vision.opening import open_model

def middle(first, values):
    {middle}

def main(argv):
    values, rest = command_line().parse(argv)
    {main}
"""


def objections_to(root: Path, main: str, middle: str = "pass", path: str = "vision/infer.py"):
    """What the rule has against a program of these two lines, and a library beside it."""
    files = {path: PROGRAM.format(main=main, middle=middle), "vision/opening.py": LIBRARY}
    files["vision/flags.py"] = "def make_options(values):\n    return values.model\n"
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, "utf-8")
    return [line.partition(": ")[2] for line in sorted(Flow(root).objections)]


@pytest.mark.parametrize(
    ("main", "middle", "problem"),
    [
        ("open_model(values)", "pass", "given to vision.opening.open_model"),
        ("opening.open_model(1, values)", "pass", "given to vision.opening.open_model"),
        ("open_model(values=values)", "pass", "given to vision.opening.open_model"),
        ("open_model(*command_line().parse(argv))", "pass", "given to vision.opening.open_model"),
        ("open_model(command_line().parse(argv)[0])", "pass", "given to vision.opening.open_model"),
        ("middle(1, values)", "open_model(values)", "given to vision.opening.open_model"),
        ("middle(1, values=values)", "open_model(values)", "given to vision.opening.open_model"),
        ("open_model(middle(1, values))", "return values", "given to vision.opening.open_model"),
        ("a, b = 1, values; open_model(b)", "pass", "given to vision.opening.open_model"),
        ("open_model(vars(values) | {})", "pass", "given to vision.opening.open_model"),
        (
            "copy = SimpleNamespace(**vars(values)); open_model(copy)",
            "pass",
            "given to vision.opening.open_model",
        ),
        ("functools.partial(open_model, values)", "pass", "given to functools.partial"),
        ("lambda: open_model(values)", "pass", "given to vision.opening.open_model"),
        ("values.model = 1", "pass", "written to"),
        ("values.model += 1", "pass", "written to"),
        ("del values.model", "pass", "written to"),
        ("vars(values)['model'] = 1", "pass", "written to"),
        ("setattr(values, 'model', 1)", "pass", "given to setattr"),
        ("argv.values = values", "pass", "kept in an object"),
    ],
)
def test_flags_that_leave_a_program_are_found(tmp_path, main, middle, problem):
    assert objections_to(tmp_path, main, middle) == [f"flags are {problem}"]


def test_flags_that_a_library_parses_go_no_further(tmp_path):
    found = objections_to(tmp_path, "middle(1, values)", path="tools/recognition/training.py")
    assert found == ["flags are given to tools.recognition.training.middle"]


@pytest.mark.parametrize(
    ("main", "middle"),
    [
        ("open_model(values.model, getattr(values, 'batch_size'), rest)", "pass"),
        ("options = from_flags(dict, values, paths=rest); open_model(options)", "pass"),
        ("open_model(make_options(values))", "pass"),
        ("middle(values.model, values)", "open_model(first)"),
        ("open_model(middle(1, values))", "return values.model"),
        ("rest.values = values.model", "pass"),
    ],
)
def test_options_and_single_values_go_anywhere(tmp_path, main, middle):
    assert objections_to(tmp_path, main, middle) == []
