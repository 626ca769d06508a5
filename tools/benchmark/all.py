"""Runs the commands of docs/benchmarks.md again and compares their figures with those of the page.

The page itself names the commands. A command runs in a scratch folder that links the checkout, and
the data under the names of the page, so that it reads as it stands there.
"""

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.benchmark import markdown
from tools.benchmark.blocks import PROJECT, link_project, run_text
from tools.benchmark.page_figures import FIGURES, Done, Figure
from tools.benchmark.page_jobs import PROGRAM, Job, read_jobs
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text

PAGE = PROJECT / "docs" / "benchmarks.md"
_OUTPUT_LINES = 5  # of a command that failed


def parse_data(words: Sequence[str], names: set[str]) -> dict[str, Path]:
    """Reads words of the form NAME=PATH.

    Raises:
        UserError: a word has another form, a name is not on the page, or a path does not exist.
    """
    data = {}
    for word in words:
        name, _, path = word.partition("=")
        if name not in names or not path:
            known = ", ".join(sorted(names))
            raise UserError.expected(
                f"--data NAME=PATH with NAME among {known}", word or '""', "Correct --data"
            )
        if not Path(path).exists():
            raise UserError.expected(
                f"data in --data {name}", f"{path}, which is missing", "Correct --data"
            )
        data[name] = Path(path).resolve()
    return data


def choose(jobs: Sequence[Job], sections: str | None) -> list[Job]:
    """Returns the jobs of sections, given by their anchors; all jobs without sections.

    Raises:
        UserError: a section is not on the page.
    """
    wanted = sections.split(",") if sections else [job.section for job in jobs]
    known = dict.fromkeys(job.section for job in jobs)
    if unknown := [name for name in wanted if name not in known]:
        raise UserError.expected(
            f"--sections among {', '.join(known)}", unknown[0], "Correct --sections"
        )
    return [job for job in jobs if job.section in wanted]


def page_cell(figure: Figure, page: str) -> str:
    """Returns the cell of a figure in the tables of the page.

    Raises:
        UserError: the page has no such cell.
    """
    header: list[str] = []
    for row in markdown.rows(markdown.sections(page).get(figure.section, "")):
        if figure.column and figure.column in row:
            header = row
        if tuple(row[: len(figure.row)]) == figure.row and (header or not figure.column):
            return row[header.index(figure.column) if header else len(figure.row)]
    raise UserError.expected(
        f'a row "{figure.what}" in the section {figure.section}', "none", "Correct --page"
    )


def run_job(job: Job, folder: Path) -> list[Done]:
    """Runs the commands of a job, each in its own process; stops after one that fails."""
    # By default scripts write beside run_scripts, and that is a link to the checkout.
    variables = {"OUTPUT_DIR": str(folder / "runs" / "output")}
    done = []
    for command in job.commands:
        print(f"   {command}", file=sys.stderr, flush=True)
        started = time.monotonic()
        code, output = run_text(command, folder, variables=variables)
        done.append(Done(command, None if code else output, time.monotonic() - started))
        if code:
            last = "\n".join(output.splitlines()[-_OUTPUT_LINES:])
            print(f"   exit code {code}:\n{last}", file=sys.stderr, flush=True)
            break
    return done


def measure(
    page: str,
    jobs: Sequence[Job],
    data: Mapping[str, Path],
    figures: Sequence[Figure] = FIGURES,
) -> dict:
    """Runs jobs and compares their figures with those of the page; prints a line for each figure.

    Args:
        page: text of docs/benchmarks.md.
        jobs: to run, with all that they need.
        data: places of the data by their names on the page.
        figures: to read from the outputs.

    Returns:
        `figures`, with `now` None if a command failed or did not print the figure, and `commands`
        with their seconds.

    Raises:
        UserError: the page lacks the row of a figure.
    """
    cells = [
        (figure, page_cell(figure, page))
        for figure in figures
        if any(figure.is_of(job) for job in jobs)
    ]
    report: dict = {"figures": [], "commands": []}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as place:
        folder = Path(place)
        link_project(folder)
        for name, path in data.items():
            (folder / name).symlink_to(path)
        for number, job in enumerate(jobs, 1):
            print(f"[{number}/{len(jobs)}] {job.section}", file=sys.stderr, flush=True)
            done = run_job(job, folder)
            report["commands"] += [
                {
                    "section": job.section,
                    "command": one.command,
                    "seconds": one.seconds,
                    "ok": one.output is not None,
                }
                for one in done
            ]
            for figure, cell in cells:
                if figure.is_of(job):
                    what, now = figure.what, figure.read(done)
                    report["figures"].append(
                        {"section": job.section, "what": what, "page": cell, "now": now}
                    )
                    shown = "not measured" if now is None else now
                    print(f"{job.section} | {what} | page {cell} | now {shown}", flush=True)
    return report


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        PROGRAM,
        "Runs the commands of docs/benchmarks.md and prints their figures beside the page's.",
        example="--quick --data=DIGITS=corpora/digits --json=figures.json",
    )
    flags.group("Input")
    about = (
        "Place of data that the page names in capitals, such as DIGITS; may be repeated. Commands "
        "that need other data are left out."
    )
    flags.multi_string("data", None, about, kind_text="NAME=PATH")
    flags.string(
        "page", str(PAGE), "Page with commands and figures.", default_text="docs/benchmarks.md"
    )
    flags.group("Measurement")
    flags.boolean("quick", False, "Runs only what takes less than five minutes.")
    about = "Anchors of the sections to run, separated by commas."
    flags.string("sections", None, about, default_text="all")
    flags.group("Output")
    flags.string("json", None, "Report to write.")
    values, rest = flags.parse(argv)
    if rest:
        raise UserError.expected("flags alone", " ".join(rest), "See --help")
    try:
        page = Path(values.page).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError.expected("a text file as --page", values.page, "Correct --page") from error
    if values.json:
        check_writable(Path(values.json))
    jobs = read_jobs(page)
    data = parse_data(values.data or [], {name for job in jobs for name in job.data})
    jobs = choose(jobs, values.sections)
    lacking = [job.lacks(data, values.quick) for job in jobs]
    left_out = [
        {"section": job.section, "needs": needs}
        for job, needs in zip(jobs, lacking, strict=True)
        if needs
    ]
    for one in left_out:
        print(f"left out: {one['section']}, needs {', '.join(one['needs'])}", flush=True)
    ready = [job for job, needs in zip(jobs, lacking, strict=True) if not needs]
    report = {**measure(page, ready, data), "left_out": left_out}
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    missing = [row for row in report["figures"] if row["now"] is None]
    failed = [row for row in report["commands"] if not row["ok"]]
    return int(bool(missing or failed))


if __name__ == "__main__":
    run(main)
