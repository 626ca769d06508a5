"""Reads the figures of docs/benchmarks.md from the output of one command."""

from tools.benchmark.page_figures import FIGURES, Done


def figures_in(output: str, command: str, section: str) -> dict[str, str | None]:
    """Returns the figures of a section that a command prints, by name; None where one is absent."""
    done = [Done(command, output, 1.0)]
    return {x.what: x.read(done) for x in FIGURES if x.section == section}
