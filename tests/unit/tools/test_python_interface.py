"""What a user of the packages sees: names, the help of `load`, types, and what is installed."""

import ast
import dataclasses
import importlib
import inspect
import pydoc
import typing

import pytest
from setuptools import Distribution

import conformer
import vision
import wav2vec2
from tests.support.errors import refused
from tools.config.making_options import takes_options
from tools.inference.options import RunnerKeywords, RunnerOptions, SpeechKeywords
from tools.recognition.options import (
    RecognitionKeywords,
    RecognitionOptions,
    SearchKeywords,
    SearchOptions,
)
from tools.recognition.session import SpeechSession
from vision.session import ImageSession

PACKAGES = (conformer, vision, wav2vec2)
OPTIONS = {conformer: RecognitionOptions, vision: RunnerOptions, wav2vec2: RecognitionOptions}


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_what_a_package_offers(package):
    """The imports that only they read are those that are made on first use."""
    tree = ast.parse(inspect.getsource(package))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {}
    for node in block.body:
        for alias in node.names:
            assert alias.asname == alias.name, "else it is no part of the interface"
            seen[alias.name] = node.module
    assert sorted(seen) == sorted(package.__all__)
    for name, module in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        package.lod  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_help_tells_every_option_with_its_default(package):
    first, *keywords = inspect.signature(package.load).parameters.values()
    assert first.name == "model_dir"
    of_sounds = {"max_seconds"} if package is vision else set()
    fields = [x for x in dataclasses.fields(OPTIONS[package]) if x.name not in of_sounds]
    assert [(x.name, x.default, x.annotation) for x in keywords] == [
        (x.name, x.default, x.type) for x in fields
    ]
    assert {x.kind for x in keywords} == {inspect.Parameter.KEYWORD_ONLY}
    text = pydoc.plain(pydoc.render_doc(package.load))
    for field in fields:
        assert text.count(f"\n        {field.name}: ") == 1, f"{field.name} is not described"
    assert "**options" not in text
    assert text.index("Args:") < text.index("\n        run_eagerly: ") < text.index("Returns:")


@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        (SpeechKeywords, RunnerOptions),
        (SearchKeywords, SearchOptions),
        (RecognitionKeywords, RecognitionOptions),
    ],
)
def test_keywords_for_type_checkers_are_the_options(keywords, options):
    hints = {field.name: field.type for field in dataclasses.fields(options)}
    assert typing.get_type_hints(keywords) == hints
    assert keywords.__required_keys__ == frozenset()


def test_images_have_no_options_of_sounds():
    text = pydoc.plain(pydoc.render_doc(vision.load))
    assert not [word for word in ("sound", "waveform", "second") if word in text]
    assert RunnerKeywords.__annotations__.keys() == SpeechKeywords.__annotations__.keys() - {
        "max_seconds"
    }
    with refused("an option of load. Received: max_seconds. Use one of"):
        vision.load(max_seconds=3.0)


def test_options_are_described_where_the_docstring_names_them():
    @dataclasses.dataclass
    class Few:
        """Few.

        Attributes:
            one: the first
                of them.

        Something else.
        """

        one: int = 1

    @dataclasses.dataclass
    class More(Few):
        """More.

        Attributes:
            two: the second.
        """

        two: str = "b"

    @takes_options(More)
    def f(x, **options):
        """Does.

        Args:
            x: any.
            **options: see.

        Returns:
            Nothing.
        """
        return x, options

    assert str(inspect.signature(f)) == "(x, *, one: int = 1, two: str = 'b')"
    assert inspect.getdoc(f) == (
        "Does.\n\nArgs:\n    x: any.\n    one: the first\n        of them.\n"
        "    two: the second.\n\nReturns:\n    Nothing."
    )
    assert f(3, two="c") == (3, {"two": "c"})
    assert takes_options(More)(lambda **options: options)(one=2) == {"one": 2}


def test_one_input_has_one_answer_and_a_list_has_a_list():
    for method in (SpeechSession.transcribe, ImageSession.classify):
        answers = [x.__annotations__["return"] for x in typing.get_overloads(method)]
        for one, several in zip(answers[::2], answers[1::2], strict=True):
            assert several == list[one]


def test_an_installed_package_holds_its_models(project, monkeypatch):
    """What setuptools copies besides modules: every file of the bundled models, and type marks."""
    monkeypatch.chdir(project)
    distribution = Distribution()
    distribution.parse_config_files(["pyproject.toml"])
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    installed = {
        f"{folder}/{name}".removeprefix("./")
        for _, folder, _, names in command.get_data_files_without_manifest()
        for name in names
    }
    wanted = {f"{name}/py.typed" for name in ("conformer", "tools", "vision", "wav2vec2")}
    for family in ("conformer", "vision"):
        files = (project / family / "pretrained").rglob("*")
        wanted |= {path.relative_to(project).as_posix() for path in files if path.is_file()}
    pages = project / "tools" / "serving" / "page"
    wanted |= {path.relative_to(project).as_posix() for path in pages.iterdir()}
    assert len(wanted) > 10
    assert {name.split("./")[-1] for name in installed} == wanted
    packages = set(distribution.packages)
    inits = (path.parent for name in ("conformer", "tools", "vision", "wav2vec2")
             for path in (project / name).rglob("__init__.py"))  # fmt: skip
    assert packages == {path.relative_to(project).as_posix().replace("/", ".") for path in inits}
