"""Reads Markdown pages: links, anchors, sections, tables, and the commands of their blocks."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NEEDS = "# needs: "
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^]]+\]: (\S+)", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        language: after the fence.
        text: inside.
        line: number of its first line in the page.
    """

    language: str
    text: str
    line: int

    @property
    def needs(self) -> str:
        """What the first line says is needed to run the block; empty: nothing."""
        first = self.text.partition("\n")[0]
        return first.removeprefix(NEEDS) if first.startswith(NEEDS) else ""


def pages(project: Path) -> list[Path]:
    """Lists the pages that people read."""
    cards = project.glob("*/pretrained/*/MODEL_CARD.md")
    return [*sorted(project.glob("*.md")), *sorted(project.glob("docs/*.md")), *sorted(cards)]


def blocks(text: str, language: str = "") -> list[Block]:
    """Finds the fenced blocks of a page, of one language if it is given."""
    found = (Block(x[1], x[2], text.count("\n", 0, x.start()) + 2) for x in _FENCE.finditer(text))
    return [block for block in found if language in ("", block.language)]


def links(text: str) -> list[str]:
    """Finds the targets of the links and pictures of a page."""
    return [inline or reference for inline, reference in _LINK.findall(_FENCE.sub("", text))]


def references(text: str) -> dict[str, str]:
    """Finds the targets of `[NAME]: TARGET` lines by name."""
    return dict(re.findall(r"^\[([^]]+)\]: (\S+)", text, re.MULTILINE))


def sections(text: str) -> dict[str, str]:
    """Splits a page at its headings: the text below each, by the anchor that GitHub gives it."""
    prose = _FENCE.sub(lambda block: re.sub(r"^#", " #", block[0], flags=re.MULTILINE), text)
    parts = re.split(r"^#+ (.+)$", prose, flags=re.MULTILINE)[1:]
    return {anchor(title): body for title, body in zip(parts[::2], parts[1::2], strict=True)}


def anchor(title: str) -> str:
    """Gives the anchor of a heading as GitHub does."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def rows(text: str) -> list[list[str]]:
    """Finds the rows of all tables, with their cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in table if not all(re.fullmatch(":?-+:?", cell) for cell in row)]


def commands(script: str) -> Iterator[list[str]]:
    """Splits a bash block into the words of its commands, with its variables filled in.

    Assignments in front of a command, and what starts processes, are left out.
    """
    variables: dict[str, str] = {}
    for line in script.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), line)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                if command:
                    yield command
                command = []
            elif not command and (assignment := re.fullmatch(r"(\w+)=(.*)", word, re.DOTALL)):
                variables[assignment[1]] = assignment[2]
            else:
                command.append(word)
                if command[:2] == ["horovodrun", "-np"] and len(command) == 3:
                    command = []
