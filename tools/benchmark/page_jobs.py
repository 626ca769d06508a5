"""The commands of docs/benchmarks.md, and what their lines `# needs: A, B` ask for."""

import importlib.util
import re
from collections.abc import Container
from typing import NamedTuple

from tools.benchmark import markdown

PROGRAM = "tools.benchmark.all"  # its own block on the page is not run
_PEERS = "setup.sh --peers"
_PEER_PACKAGES = ("torch", "transformers")
_SHORT = {"a minute", "1 minute", "a few minutes", *(f"{number} minutes" for number in (2, 3, 4))}
_DURATION = re.compile(r".+ (?:minute|hour)s?")
_DATA = re.compile(r"(?:.* in )?([A-Z][A-Z0-9]*)")


def is_duration(need: str) -> bool:
    """Returns whether a need is a duration, such as "half an hour"."""
    return _DURATION.fullmatch(need) is not None


def is_short(need: str) -> bool:
    """Returns whether a need is a duration of less than five minutes."""
    return need in _SHORT


class Job(NamedTuple):
    """A block of commands under a heading of the page.

    Attributes:
        section: the anchor of the heading.
        commands: in the order in which they run.
        needs: what the first line of the block names.
    """

    section: str
    commands: tuple[str, ...]
    needs: tuple[str, ...]

    @property
    def data(self) -> set[str]:
        """Names of the data that the commands read."""
        return {name[1] for need in self.needs if (name := _DATA.fullmatch(need))}

    def lacks(self, data: Container[str], quick: bool) -> list[str]:
        """Lists missing needs; with `quick`, also a duration of more than five minutes."""
        lacking = []
        for need in self.needs:
            if is_duration(need):
                there = not quick or is_short(need)
            elif need == _PEERS:
                there = all(map(importlib.util.find_spec, _PEER_PACKAGES))
            else:
                name = _DATA.fullmatch(need)
                there = name is not None and name[1] in data
            if not there:
                lacking.append(need)
        return lacking


def read_jobs(page: str) -> list[Job]:
    """Reads the bash blocks of a page: a command for each line, or for several continued ones.

    The block that runs this program is left out.
    """
    jobs = []
    for section, text in markdown.sections(page).items():
        for block in markdown.blocks(text.replace("\n #", "\n#"), "bash"):
            lines = block.text.replace("\\\n", " ").splitlines()
            commands = (" ".join(line.split()) for line in lines if not line.startswith("#"))
            needs = (need.strip() for need in re.split("[,;]", block.needs))
            job = Job(section, tuple(filter(None, commands)), tuple(filter(None, needs)))
            if not any(PROGRAM in command for command in job.commands):
                jobs.append(job)
    return jobs
