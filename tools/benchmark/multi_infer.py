"""Gathers the reports of several runs of inference into one table and one plot."""

import csv
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import to_json, write_bytes, write_text

MISSING = "-"
MODES = ("eager", "jit")
METRICS = {"wer": "WER", "top1": "top-1"}  # fractions; a report has one of them
SPEEDS = {
    "end_to_end_samples_per_second": "end-to-end samples/s",
    "samples_per_second": "hardware_fps",  # of the runtime alone, by the name of the original
}
MEASURES = {
    "latency_ms_p50": ("p50 ms", 2),
    "latency_ms_p95": ("p95 ms", 2),
    "rtfx": ("RTFx", 1),
    "peak_memory_mib": ("memory MiB", 0),
    "model_mib": ("size MiB", 1),
    "conversion_seconds": ("conversion s", 1),
}
NUMBERS = (*METRICS, *SPEEDS, *MEASURES)
TEXT_HEADERS = ("mode", "backend", "precision", "quantization")
_MARKERS = "os^Dv<>Pp*X"


class Report(NamedTuple):
    """The measurements of one run of inference; `numbers` omits missing ones."""

    mode: str
    backend: str
    precision: str
    quantization: str
    batch_size: int
    metrics: tuple[str, ...]
    numbers: Mapping[str, float]


Cell = Callable[[Report, Report | None], str]  # of a report and its baseline


def read_report(path: Path) -> Report:
    """Reads the report of an inference program.

    Raises:
        UserError: the file cannot be read or is not such a report.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError.expected(
            "a readable report in JSON", f"{path}: {reason}", "Run its inference again"
        ) from error
    if problem := _problem(found):
        raise UserError.expected(
            "the report of an inference program", f"{path}, {problem}", "Leave it out"
        )
    numbers = {key: found[key] for key in NUMBERS if found.get(key) is not None}
    return Report(
        mode=found["mode"],
        backend=_one_line(found.get("backend") or MISSING),
        precision=_one_line(found["precision"]),
        quantization=describe_quantization(found.get("quantization") or {}),
        batch_size=found["batch_size"],
        metrics=tuple(key for key in METRICS if key in found),
        # Python's JSON also reads Infinity and NaN, which are not measurements.
        numbers={key: x for key, x in numbers.items() if abs(x) <= sys.float_info.max},
    )


def _problem(found: object) -> str | None:
    """Returns why a JSON value is not a report; None if it is one."""
    if not isinstance(found, dict):
        return "no object"
    missing = sorted({"mode", "precision", "batch_size"} - found.keys())
    if missing or not METRICS.keys() & found.keys():
        return f"without {missing[0] if missing else ' or '.join(METRICS)}"
    null = type(None)
    types = dict.fromkeys(NUMBERS, (int, float, null)) | {"quantization": (dict, null)}
    types |= {"mode": (str,), "precision": (str,), "backend": (str, null), "batch_size": (int,)}
    wrong = [key for key, allowed in types.items() if type(found.get(key)) not in allowed]
    if not wrong and found["mode"] not in MODES:
        wrong = ["mode"]
    if not wrong and not 1 <= found["batch_size"] < 2**31:
        wrong = ["batch_size"]
    return f"whose {wrong[0]} is {to_json(found[wrong[0]])[:40]}" if wrong else None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def describe_quantization(settings: Mapping[str, object]) -> str:
    """Returns settings of quantization as short text: `linear symm per_tensor opt_config=...`."""
    first = ("algo", "type", "granularity")
    words = [str(settings[key]) for key in first if settings.get(key) is not None]
    for key, value in settings.items():
        if isinstance(value, (list, dict)):  # such as the layers that stay in float
            text = "+".join(map(str, value))
            value = text if len(text) <= 32 else len(value)
        if key not in first and value not in (None, "", False):
            words.append(f"{key}={value}")
    return _one_line(" ".join(words)) or MISSING


def baselines(reports: Sequence[Report]) -> dict[int, Report]:
    """Returns the eager fp32 reports by batch size."""
    plain = [x for x in reports if (x.mode, x.precision) == ("eager", "fp32")]
    return {report.batch_size: report for report in reversed(plain)}


def metrics_of(reports: Sequence[Report]) -> list[str]:
    """Returns the metrics that at least one report has."""
    return [key for key in METRICS if any(key in report.metrics for report in reports)]


def _number(key: str, digits: int, scale: float = 1.0) -> Cell:
    def cell(report, _):
        found = report.numbers.get(key)
        return MISSING if found is None else f"{scale * found:.{digits}f}"

    return cell


def _speed_up(report: Report, base: Report | None) -> str:
    key = next(iter(SPEEDS))
    before = base.numbers.get(key) if base else None
    return f"{report.numbers[key] / before:.2f}" if before and key in report.numbers else MISSING


def _change(key: str) -> Cell:
    def cell(report, base):
        if base is None or key not in report.numbers or key not in base.numbers:
            return MISSING
        return f"{100 * (report.numbers[key] - base.numbers[key]):+.2f}"

    return cell


def table(reports: Sequence[Report]) -> list[list[str]]:
    """Returns the header and the rows of the table, sorted by mode, precision and batch size."""
    metrics, base = metrics_of(reports), baselines(reports)
    columns: dict[str, Cell] = {
        **{name: lambda report, _, name=name: getattr(report, name) for name in TEXT_HEADERS},
        "batch": lambda report, _: str(report.batch_size),
        **{f"{METRICS[key]} %": _number(key, 2, 100.0) for key in metrics},
        **{header: _number(key, 2) for key, header in SPEEDS.items()},
        **{header: _number(key, digits) for key, (header, digits) in MEASURES.items()},
        "speed-up x": _speed_up,
        **{f"{METRICS[key]} change points": _change(key) for key in metrics},
    }
    rows = [list(columns)]
    for report in sorted(reports, key=_order):
        against = base.get(report.batch_size)
        rows.append([cell(report, against) for cell in columns.values()])
    return rows


def _order(report: Report) -> tuple:
    names = report.backend, report.quantization
    return report.mode, report.precision, report.batch_size, *names


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns the table for a terminal: text is left-aligned, numbers are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.ljust if header in TEXT_HEADERS else str.rjust for header in rows[0]]
    lines = (
        "  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns the table in Markdown."""
    rule = [":---" if header in TEXT_HEADERS else "---:" for header in rows[0]]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in (escaped[0], rule, *escaped[1:]))


def comma_separated(rows: Sequence[Sequence[str]]) -> str:
    """Returns the table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def plot(reports: Sequence[Report]) -> bytes:
    """Draws speeds and metrics by batch size as PNG, with a line for each mode and precision.

    Reports with different backends or quantizations are in different lines.
    """
    lines: dict[tuple, list[Report]] = defaultdict(list)
    for report in sorted(reports, key=_order):
        kind = report.mode, report.precision, report.backend, report.quantization
        lines[kind].append(report)
    alike = Counter(kind[:2] for kind in lines)
    batches = sorted({report.batch_size for report in reports})
    panels = [(key, header, 1) for key, header in SPEEDS.items()]
    panels += [(key, f"{METRICS[key]} %", 100) for key in metrics_of(reports)]
    figure = Figure(figsize=(4.5 * len(panels), 4.5), layout="constrained")
    for axes, (key, header, scale) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for index, (kind, of) in enumerate(lines.items()):
            # Metrics are often equal. The shift prevents that one line hides another.
            shift = 0 if key in SPEEDS else 0.4 * (index / len(lines) - 0.5)
            points = [x for x in of if key in x.numbers]
            axes.plot(
                [batches.index(x.batch_size) + shift for x in points],
                [scale * x.numbers[key] for x in points],
                "--" if kind[0] == "eager" else "-",
                marker=_MARKERS[index % len(_MARKERS)],
                label=" ".join(kind if alike[kind[:2]] > 1 else kind[:2]).replace("$", "\\$"),
            )
        axes.set_title(header)
        axes.set_xlabel("batch size")
        axes.set_ylabel("samples/s" if key in SPEEDS else "%")
        axes.set_xticks(range(len(batches)), batches)
        axes.grid(alpha=0.3)
        if key in SPEEDS:
            axes.set_ylim(bottom=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.multi_infer",
        "Gathers reports of inference into a table: printed, and as table.csv, .md and .png.",
        "--output_dir=DIR REPORT.json ...",
        example="--output_dir=table eager.json jit.json",
    )
    flags.group("Output")
    flags.string("output_dir", None, "Folder of the table's files.", default_text=REQUIRED)
    values, paths = flags.parse(argv)
    if not values.output_dir or not paths:
        raise UserError.expected(
            "--output_dir DIR and reports", " ".join(argv) or "nothing", "See --help"
        )
    reports = [read_report(Path(path)) for path in paths]
    rows, folder = table(reports), Path(values.output_dir)
    write_text(folder / "table.csv", comma_separated(rows))
    write_text(folder / "table.md", markdown(rows))
    write_bytes(folder / "table.png", plot(reports))
    print(aligned(rows))
    return 0


if __name__ == "__main__":
    run(main)
