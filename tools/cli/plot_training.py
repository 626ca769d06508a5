"""Draws what training runs recorded in metrics.jsonl: losses, accuracies, error rates by step."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tools.cli.plot_schedule import png
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import write_bytes

RECORDS = "metrics.jsonl"
Curve = tuple[str, list[int], list[float]]


def read_records(path: Path) -> list[dict]:
    """Reads the records of a run, of its directory or its metrics.jsonl."""
    path = path / RECORDS if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError.expected(
            f"a run's folder with {RECORDS}", f"{path}: {error.strerror}", "Correct it"
        ) from error
    try:
        # The last line of a run that still goes on may be half a line.
        records = [json.loads(line) for line in lines[:-1]]
        steps = [record["step"] for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError.expected(
            f"records of training, one JSON object with a step a line, in {path}",
            "another content",
            "Name a run's folder",
        ) from error
    if not steps:
        raise UserError.expected(f"records in {path}", "none", "Let the run go on for a while")
    return records


def curves(runs: dict[str, list[dict]], metric: str) -> list[Curve]:
    """Finds the curves of a metric: `loss` is `train/loss`, `eval/loss` ... of each run.

    Args:
        runs: records by the name of their run.
        metric: the part of a name behind its slash.

    Returns:
        For each run and part of training `(name, steps, values)`, NaN where there was no number.
    """
    found = []
    for run_name, records in runs.items():
        names = {key for record in records for key in record if key.endswith(f"/{metric}")}
        for name in sorted(names, reverse=True):
            points = [(x["step"], x[name]) for x in records if name in x]
            values = [math.nan if value is None else value for _, value in points]
            part = name.removesuffix(f"/{metric}")
            label = f"{run_name}: {part}" if len(runs) > 1 else part
            found.append((label, [step for step, _ in points], values))
    if not found:
        known = {
            key.partition("/")[2]
            for records in runs.values()
            for record in records
            for key in record
            if "/" in key
        }
        raise UserError.expected(
            f"metrics of these runs: {' '.join(sorted(known))}", metric, "Correct --metrics"
        )
    return found


def draw(panels: dict[str, Sequence[Curve]]) -> bytes:
    """Makes a PNG with a panel for each metric."""
    figure = Figure((6 * len(panels), 4), layout="constrained")
    for axes, (metric, found) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, steps, values in found:
            axes.plot(steps, values, label=name, marker="." if len(steps) == 1 else None)
        axes.set(xlabel="step", title=metric)
        axes.grid(alpha=0.3)
        axes.legend()
    return png(figure)


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.cli.plot_training",
        "Draws metrics of one or more training runs into a PNG, with a panel for each metric.",
        "RUN... --metrics NAME,... --output FILE.png",
        example="runs/m --metrics=loss,wer --output=curve.png",
    )
    flags.group("Input")
    about = "Names of metrics behind the slash, such as loss,acc_heads or loss,wer."
    flags.string("metrics", "loss", about)
    flags.group("Output")
    flags.string("output", "training.png", "File to write.", short_name="o")
    values, runs = flags.parse(argv)
    if not runs:
        raise UserError.expected("a RUN", "none", f"Name a folder with {RECORDS}")
    if Path(values.output).suffix.lower() != ".png":
        raise UserError.expected("an --output FILE.png", values.output, "Correct it")
    records = {name: read_records(Path(name)) for name in runs}
    panels = {metric: curves(records, metric) for metric in values.metrics.split(",")}
    for metric, found in panels.items():
        for name, steps, numbers in found:
            last = f"{numbers[-1]:.4g} at step {steps[-1]}"
            finite = [x for x in numbers if not math.isnan(x)] or [math.nan]
            span = f"from {min(finite):.4g} to {max(finite):.4g}"
            print(f"{metric}, {name}: {span}, last {last}", file=sys.stderr)
    write_bytes(Path(values.output), draw(panels))
    return 0


if __name__ == "__main__":
    run(main)
