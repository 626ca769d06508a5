"""Where the figures of docs/benchmarks.md stand on the page and in the outputs of its commands."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tools.benchmark.page_jobs import Job
from tools.benchmark.robustness import CHANGES, REPETITIONS


class Done(NamedTuple):
    """A command that has ended; `output` is None if it failed."""

    command: str
    output: str | None
    seconds: float


class Figure(NamedTuple):
    """A figure: its place on the page, and how it is read from outputs.

    Attributes:
        section: the anchor of its heading.
        row: the first cells of its row.
        command: a regular expression that is found in every command that prints it.
        pattern: a regular expression with a group for each number. None is the duration of the
            commands.
        digits: after the decimal point.
        unit: behind the number.
        scale: factor of the printed number.
        column: header of its column. Empty is the column behind `row`.
        between: what separates the numbers of several matches.
    """

    section: str
    row: tuple[str, ...]
    command: str
    pattern: str | None
    digits: int
    unit: str = ""
    scale: float = 1.0
    column: str = ""
    between: str = "; "

    @property
    def what(self) -> str:
        """The name of the figure: its row, and its column if it has one."""
        return " ".join((*self.row, self.column)).strip()

    def is_of(self, job: Job) -> bool:
        """Returns whether one of the commands of a job prints the figure."""
        found = any(re.search(self.command, command) for command in job.commands)
        return found and job.section == self.section

    def read(self, done: Sequence[Done]) -> str | None:
        """Reads the figure from outputs; None if one of its commands failed or did not print it.

        Equal values of several commands are written once.
        """
        found = []
        for one in done:
            if not re.search(self.command, one.command):
                continue
            if one.output is None:
                return None
            if self.pattern is None:
                found.append((str(one.seconds),))
                continue
            matches = list(re.finditer(self.pattern, one.output, re.MULTILINE))
            if not matches:
                return None
            found += [match.groups() for match in matches]
        words = [", ".join(map(self._shown, numbers)) for numbers in found]
        return self.between.join(words[:1] if len(set(words)) == 1 else words) or None

    def _shown(self, number: str) -> str:
        return f"{self.scale * float(number):.{self.digits}f} {self.unit}".rstrip()


_NUMBER = r"([\d.]+)"
_DIGITS = "spoken-digits-speech-conformer"
_TABLE = "transcription-with-the-bundled-model"
_ENCODER = "conformer-s-encoder"
_PHOTOS = "photographs-vision-conformer"
_SHAPES = "drawn-shapes-vision-conformer"
_STEP = "training-step-vision-conformer"


def _table() -> list[Figure]:
    """Returns the figures of the table of `multi_infer_run.sh`, by row and column."""
    columns = {
        "WER %": (0, 2),
        "hardware_fps": (2, 0),
        "p50 ms": (3, 0),
        "RTFx": (5, 0),
        "size MiB": (7, 1),
    }
    rows = {
        ("eager", "fp32"): "eager",
        ("jit, automatic", "fp32"): "jit",
        ("jit, OpenVINO", "int8_fp32"): "jit",
    }
    return [
        Figure(
            _TABLE,
            row,
            "multi_infer_run.sh",
            rf"^{mode}\s+\S+\s+{row[1]}\s.*?\s\d+\s+" + r"\S+\s+" * skipped + _NUMBER,
            digits,
            column=header,
            between=" / ",
        )
        for row, mode in rows.items()
        for header, (skipped, digits) in columns.items()
    ]


def _robustness() -> list[Figure]:
    """Returns the word error rates of `tools.benchmark.robustness`, by row."""
    return [
        Figure(
            _DIGITS,
            (name,),
            "tools.benchmark.robustness",
            rf"^{re.escape(name)}: WER {_NUMBER}%",
            2,
            "%",
            column="CTC head",
        )
        for name in (*CHANGES, *REPETITIONS)
    ]


def _encoder() -> list[Figure]:
    """Returns the figures of the Conformer-S encoder, by row and batch size."""
    rows = {
        "eager": (r"eager +{} ms", 0, "ms"),
        "jit fp32": (r"jit +{} ms", 1, "ms"),
        "jit fp32, against eager": (r"ms, {} x;", 1, "x"),
        "jit int8_fp32": (r"int8_fp32 +{} ms", 1, "ms"),
        "jit int8_fp32, against jit fp32": (r"{} x jit", 2, "x"),
        "speed with a range of shapes / speed with a fixed shape, after 5 s of warm-up": (
            r"has {} of its speed",
            2,
            "",
        ),
    }
    return [
        Figure(
            _ENCODER,
            (name,),
            "tools.benchmark.inference",
            rf"^batch +{batch}: .*?{pattern.format(_NUMBER)}",
            digits,
            unit,
            column=f"batch {batch}",
        )
        for name, (pattern, digits, unit) in rows.items()
        for batch in (1, 8)
    ]


FIGURES = (
    Figure(
        _DIGITS,
        ("WER, in TensorFlow and converted: the same texts",),
        "conformer.infer",
        f"^WER {_NUMBER}%",
        2,
        "%",
    ),
    Figure(_DIGITS, ("CER",), "conformer.infer", f"CER {_NUMBER}%", 2, "%"),
    Figure(
        _DIGITS,
        ("substitutions, deletions, insertions",),
        "conformer.infer",
        r"\((\d+) substitutions?, (\d+) deletions?, (\d+) insertions?\)",
        0,
    ),
    Figure(
        _DIGITS,
        ("training",),
        "conformer/train.py",
        rf'"perf/samples_per_second": {_NUMBER}',
        0,
        "utterances/s",
    ),
    *_robustness(),
    *_table(),
    *_encoder(),
    Figure(
        _PHOTOS,
        ("top-1 in TensorFlow",),
        "--run_eagerly=1",
        f"'Top1-Acc': {_NUMBER}",
        2,
        "%",
        scale=100,
    ),
    Figure(
        _PHOTOS,
        ("top-1 converted: float32; 8 bits; 8 bits with a scale for each channel",),
        "vision.eval (?!.*run_eagerly)",
        f"'Top1-Acc': {_NUMBER}",
        2,
        "%",
        scale=100,
    ),
    Figure(
        _PHOTOS,
        ("colors alone: logistic regression on 8 x 8 x 8 histograms",),
        "color_histograms",
        f"Top1-Acc {_NUMBER}",
        1,
        "%",
        scale=100,
    ),
    Figure(_SHAPES, ("top-1",), "vision.train", f'"eval/acc_heads": {_NUMBER}', 1, "%", scale=100),
    Figure(_SHAPES, ("duration, from start to end",), "vision.train", None, 0, "s"),
    Figure(
        _STEP,
        ("PyTorch, eager, fused AdamW",),
        "vision_training",
        rf"^pytorch eager +median +{_NUMBER} ms",
        0,
        "ms",
    ),
    Figure(
        _STEP,
        ("this project",),
        "vision_training",
        rf"^tensorflow eager +median +{_NUMBER} ms",
        0,
        "ms",
    ),
    Figure(
        _STEP,
        ("this project, against PyTorch",),
        "vision_training",
        rf", {_NUMBER} x pytorch",
        2,
        "x",
    ),
    Figure(
        _STEP,
        ("input pipeline with all augmentations",),
        "vision_training",
        rf"^input pipeline +{_NUMBER} images/s",
        0,
        "images/s",
    ),
    Figure(
        _STEP,
        ("input pipeline, against the step",),
        "vision_training",
        rf"images/s, {_NUMBER} x our",
        0,
        "x",
    ),
)
