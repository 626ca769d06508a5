"""README and docs: links, commands, Python blocks and figures are true; sizes are within limits."""

import ast
import importlib.util
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs import run
from tools.benchmark import markdown
from tools.config.command_line import CommandLine
from tools.config.originals import FLAGS
from tools.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [str(page.relative_to(PROJECT)) for page in markdown.pages(PROJECT)]
FIGURES = "docs/benchmarks.md"
CARDS = [page for page in PAGES if page.endswith("MODEL_CARD.md")]
# Commands of other programs: their arguments are not checked.
OTHERS = {"apt-get", "curl", "docker", "ffmpeg", "ln", "mkdir", "pip"}
OF_OTHERS = {"--no-deps"}
# Blocks without `# needs:` that other tests run, since they take long.
LONG = {"conformer.infer", "pytest"}


def read(page: str) -> str:
    return (PROJECT / page).read_text("utf-8")


class Parsed(Exception):
    """The program has read its flags."""


@pytest.fixture(scope="module")
def parse():
    """Lets a program read its flags and do nothing else; gives the values and the --help text."""
    whole = CommandLine.parse

    def stop(line, argv):
        raise Parsed(whole(line, argv)[0], line.help_text())

    def call(module: str, words: list[str]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CommandLine, "parse", stop)
            with pytest.raises(Parsed) as found:
                importlib.import_module(module).main(words)
        return found.value.args

    return call


@pytest.fixture(scope="module")
def flags_of(parse):
    """Gives the names of the flags of a program or of a script."""

    def of_script(path: Path) -> set[str]:
        lines = path.read_text("utf-8").splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        found = set(re.findall(r"(?<![\w-])(--?\w+)", text))
        for name in set(re.findall(r"\b(\w+\.sh)\b", text)) - {path.name, "env.sh", "setup.sh"}:
            if (path.parent / name).is_file():
                found |= of_script(path.parent / name)
        for name in set(re.findall(r"\b((?:conformer|vision|wav2vec2|tools)[./][\w./]+)", text)):
            module = name.removesuffix(".py").replace("/", ".")
            if (PROJECT / f"{module.replace('.', '/')}.py").is_file():
                found |= of_program(module)
        return found

    def of_program(module: str) -> set[str]:
        names = re.findall(
            r"^  --(\[no\])?(\w+).*?(?:, (-\w))?$", parse(module, [])[1], re.MULTILINE
        )
        found = {f"--{name}" for _, name, _ in names} | {short for *_, short in names if short}
        return found | {f"--no{name}" for no, name, _ in names if no}

    return lambda place: of_script(place) if isinstance(place, Path) else of_program(place)


def test_the_front_page_is_one_page():
    lines = read("README.md").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_every_page_is_reachable_from_the_front_page():
    targets = {target.partition("#")[0] for target in markdown.links(read("README.md"))}
    assert {page for page in PAGES if page.startswith("docs/")} <= targets


def test_pictures_are_small_and_shown():
    shown = {
        (PROJECT / page).parent.joinpath(target).resolve()
        for page in PAGES
        for target in markdown.links(read(page))
    }
    for picture in (PROJECT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 100_000, picture.name
        assert picture.resolve() in shown, picture.name


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_exist(page):
    here = PROJECT / page
    for target in markdown.links(read(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        place = (here.parent / path).resolve() if path else here
        assert place.exists(), target
        if anchor:
            assert anchor in markdown.sections(place.read_text("utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_run(page, parse, flags_of):
    """Programs and scripts exist and know the flags, configs exist and have the keys."""
    for block in markdown.blocks(read(page), "bash"):
        assert not block.needs or block.needs.strip(), f"line {block.line}: needs what?"
        for program, *words in markdown.commands(block.text):
            try:
                check_command(program, words, parse, flags_of)
            except UserError as error:
                pytest.fail(f"the block at line {block.line}: {error}")


def check_command(program: str, words: list[str], parse, flags_of) -> None:
    if program in OTHERS:
        return
    scripts = tomllib.loads(read("pyproject.toml"))["project"]["scripts"]
    if program in scripts:
        parse(scripts[program].partition(":")[0], words)
    elif program == "source":
        assert (PROJECT / words[0]).is_file()
    elif program == "bash":
        script, *words = words
        assert (PROJECT / script).is_file(), script
        given = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)}
        assert given <= flags_of(PROJECT / script), f"{script} {' '.join(words)}"
    else:
        assert program == "python", program
        check_python(words, parse)


def check_python(words: list[str], parse) -> None:
    option, name, *rest = words if words[0].startswith("-") else ["", *words]
    if option == "-c":
        compile(name, "the command", "exec")
    elif option == "-m" and name == "pytest":
        places = [PROJECT / word for word in rest if not word.startswith("-")]
        assert places and all(place.exists() for place in places)
    elif name.startswith("tests."):
        assert importlib.util.find_spec(name)
        assert all((PROJECT / page).is_file() for page in rest)
    elif name.startswith("tests/"):
        text = (PROJECT / name).read_text("utf-8")
        assert all(f'"{word}"' in text for word in rest if word.startswith("--")), name
    else:
        module = name.removesuffix(".py").replace("/", ".")
        values, _ = parse(module, rest)
        config, settings = getattr(values, "config", None), getattr(values, "set", {})
        if config and config.startswith("configs/"):
            family = importlib.import_module(config.split("/")[1])
            family.load_config(PROJECT / config, settings)


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_the_text_exist(page, flags_of, every_flag):
    if page == "CHANGELOG.md":
        return
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    named = {flag for code in re.findall(r"`([^`]+)`", text) for flag in re.findall(r"--\w+", code)}
    assert named - every_flag == set()


@pytest.fixture(scope="module")
def every_flag(flags_of) -> set[str]:
    """The flags of all programs and scripts."""
    found = OF_OTHERS | {f"--{name.split('-')[0]}" for x in FLAGS.values() for name in x}
    for top in ("conformer", "vision", "wav2vec2", "tools/cli", "tools/benchmark"):
        for file in (PROJECT / top).glob("*.py"):
            text = file.read_text("utf-8")
            if "\n    run(main)" in text and not file.stem.endswith("_peer"):
                found |= flags_of(f"{top}/{file.stem}".replace("/", "."))
    for script in (PROJECT / "run_scripts").glob("*.sh"):
        found |= set(re.findall(r"--\w+", script.read_text("utf-8")))
    return found


def cheap_blocks() -> list:
    found = []
    for page in PAGES:
        for block in markdown.blocks(read(page), "bash"):
            names = {word for words in markdown.commands(block.text) for word in words[:3]}
            if not block.needs and not names & LONG and "source" not in names:
                found.append(pytest.param(block, id=f"{page}:{block.line}"))
    return found


@pytest.mark.parametrize("block", cheap_blocks())
def test_blocks_without_needs_run(block, tmp_path, monkeypatch):
    for name in ("configs", "conformer", "vision"):
        (tmp_path / name).symlink_to(PROJECT / name)
    monkeypatch.chdir(tmp_path)
    for words in markdown.commands(block.text):
        assert words[:2] == ["python", "-m"]
        assert importlib.import_module(words[2]).main(words[3:]) == 0


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_call_what_there_is(page):
    for block in markdown.blocks(read(page), "python"):
        tree = ast.parse(block.text)
        names: dict = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), page, "exec"), names)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                check_call(node, names)


def check_call(node: ast.Call, names: dict) -> None:
    """Binds the arguments of a function that a block imports."""
    words = ast.unparse(node.func).split(".")
    if words[0] not in names or not all(map(str.isidentifier, words)):
        return
    function = names[words[0]]
    for word in words[1:]:
        function = getattr(function, word)
    # Messages of protocol buffers have no signature that can be read.
    if not inspect.isbuiltin(function) and not hasattr(function, "DESCRIPTOR"):
        keywords = {keyword.arg: None for keyword in node.keywords}
        inspect.signature(function).bind(*node.args, **keywords)


def numbers(text: str) -> list[str]:
    return re.findall(r"(?<![\w-])\d+(?:\.\d+)?", text)


def is_copied(figure: str, section: str) -> bool:
    """Tells whether the numbers of a figure stand side by side in one row of a section."""
    wanted = numbers(figure)
    found = [numbers(" | ".join(row[1:])) for row in markdown.rows(section)]
    size = len(wanted)
    return any(wanted == x[i : i + size] for x in found for i in range(len(x) - size + 1))


def test_figures_of_the_front_page_are_copies():
    page = read("README.md")
    sections, places = markdown.sections(read(FIGURES)), markdown.references(page)
    _, *rows = markdown.rows(markdown.sections(page)["results"])
    assert rows
    for what, figures, link in rows:
        path, _, anchor = places[link.strip("[]")].partition("#")
        assert path == FIGURES
        for figure in figures.split(";"):
            assert is_copied(figure, sections[anchor]), f"{what}: {figure}"


@pytest.mark.parametrize("page", CARDS)
def test_figures_of_model_cards_are_copies(page):
    card, sections = markdown.sections(read(page)), markdown.sections(read(FIGURES))
    (target,) = {x for x in markdown.links(read(page)) if "benchmarks.md#" in x}
    section = sections[target.partition("#")[2]]
    rows = [row for row in markdown.rows(card["figures"]) if numbers(" ".join(row[1:]))]
    assert rows
    for name, *cells in rows:
        for figure in cells[0].split(";") if len(cells) == 1 else [" | ".join(cells)]:
            assert is_copied(figure, section), f"{name}: {figure}"
    for figure in re.findall(r"\d[\d.]* (?:%|minutes)", card["made-by"] + card["figures"]):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}", section), figure


def test_every_section_of_figures_names_command_and_date():
    for anchor, section in markdown.sections(read(FIGURES)).items():
        if anchor != "benchmarks":
            assert re.search(r"Date: 20\d\d-\d\d-\d\d", section), anchor
            assert markdown.blocks(section.replace(" #", "#"), "bash"), anchor


def test_the_page_about_installing_knows_programs_and_packages():
    document, page = tomllib.loads(read("pyproject.toml")), read("docs/install.md")
    assert all(f"`{name}`" in page for name in document["project"]["scripts"])
    pins = document["project"]["dependencies"] + document["tool"]["conformer-zoo"]["constraints"]
    known = {pin.partition("==")[0].replace("_", "-") for pin in pins}
    (line,) = (
        x for x in re.findall(r"^pip .*", page.replace("\\\n", ""), re.MULTILINE) if "--no" in x
    )
    packages = set(line.split()[2:]) - {"--no-deps", "PATH_TO_CHECKOUT"}
    known |= {pin.replace("_", "-") for pin in pins}
    assert {name.replace("_", "-") for name in packages} <= known


def test_the_long_form_runs_what_it_has_data_for():
    block = markdown.Block("bash", "# needs: DIGITS, two hours\nfalse\n", 1)
    assert run.missing(block) == ["two hours"]
    assert run.missing(block._replace(text="echo")) == []
    every = {
        need.strip()
        for page in PAGES
        for block in markdown.blocks(read(page))
        for need in re.split("[,;]", block.needs)
    }
    assert every >= run.PROVIDED


def test_a_block_that_fails_in_its_first_line_fails(tmp_path):
    code, output = run.run_block(markdown.Block("bash", "false\necho later\n", 1), tmp_path)
    assert code == 1 and output == ""
    code, output = run.run_block(markdown.Block("bash", 'echo "$DATA_DIR"\n', 1), tmp_path)
    assert code == 0 and output == f"{tmp_path}/DIGITS/dev-clean\n"
