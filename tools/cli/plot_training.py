"""Plots metrics of training runs (metrics.jsonl) by step: losses, accuracies, error rates."""

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
    """Reads the records of a run.

    Args:
        path: the run's folder or its metrics.jsonl.

    Returns:
        A dictionary for each line of the file.

    Raises:
        UserError: the file cannot be read, is not a file of records, or has no complete line.
    """
    path = path / RECORDS if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError.expected(
            f"a run's folder with {RECORDS}", f"{path}: {error.strerror}", "Correct the path"
        ) from error
    try:
        # The last line may be incomplete if training is still running.
        records = [json.loads(line) for line in lines[:-1]]
        steps = [record["step"] for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError.expected(
            f"records of training in {path}, a JSON object with a step in each line",
            "other content",
            "Give the folder of a run",
        ) from error
    if not steps:
        raise UserError.expected(f"records in {path}", "none", "Wait for the first record")
    return records


def curves(runs: dict[str, list[dict]], metric: str) -> list[Curve]:
    """Returns the curves of a metric; those of `loss` are `train/loss`, `eval/loss` and so on.

    Args:
        runs: records of each run, by the run's name.
        metric: part of the metric's name after the slash.

    Returns:
        `(name, steps, values)` for each run and prefix such as `train`; null values become NaN.

    Raises:
        UserError: no run has this metric.
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
            f"a metric of these runs: {' '.join(sorted(known))}", metric, "Correct --metrics"
        )
    return found


def draw(panels: dict[str, Sequence[Curve]]) -> bytes:
    """Plots the curves of each metric in a panel and returns the PNG file as bytes."""
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
        "Plots metrics of one or more training runs as a PNG, with a panel for each metric.",
        "RUN... --metrics NAME,... --output FILE.png",
        example="runs/m --metrics=loss,wer --output=curve.png",
    )
    flags.group("Input")
    about = "Metrics without the part before the slash, such as loss,acc_heads or loss,wer."
    flags.string("metrics", "loss", about)
    flags.group("Output")
    flags.string("output", "training.png", "PNG file to write.", short_name="o")
    values, runs = flags.parse(argv)
    if not runs:
        raise UserError.expected("a RUN", "none", f"Give a folder with {RECORDS}")
    if Path(values.output).suffix.lower() != ".png":
        raise UserError.expected("an --output FILE.png", values.output, "Correct --output")
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
