"""Settings of Sphinx for the site of README.md, the pages of docs/ and the API reference.

`run_scripts/docs.sh` builds it. The API reference is made from the docstrings by the pages in this
folder. Pages that are added to docs/ need no change here.
"""

import importlib
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.families import FAMILIES  # noqa: E402

project = "Conformer zoo"
root_doc = "README"
_CARDS = "*/pretrained/*/MODEL_CARD.md"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**", _CARDS]
exclude_patterns = [".*", "build", "configs", "data", "run_scripts", "runs", "tests"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
default_role = "literal"  # in docstrings, words between single backticks are code
autodoc_default_options = {"members": True, "member-order": "bysource"}
napoleon_custom_sections = ["Source"]
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature shows the types
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
html_theme = "furo"
html_title = project
html_show_copyright = False

# The order of the first pages of docs/; others follow by name.
_ORDER = "install speech vision wav2vec2 train data convert python serve benchmarks".split()


def _guide() -> list[str]:
    """Returns the pages of docs/ in the order in which a user needs them."""
    names = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
    names.sort(key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    return [f"docs/{name}" for name in names]


def _add_contents(app, docname: str, source: list[str]) -> None:
    """Adds the list of all pages to README.md, which has none on GitHub."""
    if docname != root_doc:
        return
    reference = sorted(path.stem for path in Path(__file__).parent.glob("*.md"))
    cards = sorted(path.relative_to(ROOT).with_suffix("") for path in ROOT.glob(_CARDS))
    parts = {
        "Guide": _guide(),
        "Bundled models": [f"{card.parent.name} <{card}>" for card in cards],
        "API reference": [f"docs/reference/{name}" for name in reference],
        "Development": ["CONTRIBUTING", "CHANGELOG"],
    }
    for caption, pages in parts.items():
        if pages:
            lines = ["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]
            source[0] += "\n\n" + "\n".join(lines)


def _from_markdown(app, what, name, obj, options, lines: list[str]) -> None:
    """Rewrites Markdown that reStructuredText reads otherwise: tables, and code before a letter."""
    written, in_table = [], False
    for line in lines:
        is_row = line.lstrip().startswith("| ") or line.lstrip().startswith("|-")
        if is_row != in_table:
            indent = line[: len(line) - len(line.lstrip())]
            written += [f"{indent}::", ""] if is_row else [""]
            in_table = is_row
        written.append(f"    {line}" if is_row else re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line))
    lines[:] = written


def _skip(app, what, name, obj, skip, options) -> bool | None:
    """Leaves out fields of named tuples, which their class describes."""
    return True if str(obj.__doc__).startswith("Alias for field number") else None


def _without_catch_all(app, what, name, obj, options, signature, returned) -> tuple | None:
    """Leaves out signatures that say nothing, such as those of protocols."""
    return ("", returned) if signature == "(*args, **kwargs)" else None


def setup(app) -> None:
    """Registers what this file adds to Sphinx."""
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _from_markdown, priority=600)  # after napoleon
    app.connect("autodoc-process-signature", _without_catch_all)
    app.connect("autodoc-skip-member", _skip)
    for family in FAMILIES:  # their public names are imported on first use, which autodoc misses
        module = importlib.import_module(family)
        for name in module.__all__:
            setattr(module, name, getattr(module, name))
