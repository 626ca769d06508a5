"""Measures the speed of inference, and writes reports."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.files import one_line, result_file, to_json, write_text
from tools.inference.runner import Runner
from tools.memory import peak_resident_bytes

TSV_HEADER = ("PATH", "DURATION", "GROUNDTRUTH", "GREEDY", "BEAMSEARCH")
_MOST_NAMED = 20  # skipped files
_SEPARATORS = str.maketrans("\t\n\r", "   ")


@dataclass(frozen=True, slots=True)
class Times:
    """Measured times.

    Attributes:
        laps: time of each batch in seconds.
        seconds: total time of the batches in seconds.
        end_to_end_seconds: time in seconds with reading and decoding.
    """

    laps: tuple[float, ...]
    seconds: float
    end_to_end_seconds: float

    @classmethod
    def of_ranks(cls, times: "Sequence[Times]") -> "Times":
        """Joins the times of processes that run at once: the longest times, and all laps."""
        return cls(
            tuple(lap for one in times for lap in one.laps),
            max(one.seconds for one in times),
            max(one.end_to_end_seconds for one in times),
        )

    def speed(self, num_samples: int) -> dict[str, float]:
        """Computes rates and latencies.

        Args:
            num_samples: number of samples that ran in the batches.

        Returns:
            `samples_per_second` within the batches; `end_to_end_samples_per_second` and
            `end_to_end_seconds`, which include reading and decoding; `latency_ms_p50` and
            `latency_ms_p95` of a batch.
        """
        whole = max(self.end_to_end_seconds, 1e-9)
        p50, p95 = np.percentile(self.laps or (0.0,), [50, 95])
        return {
            "samples_per_second": num_samples / max(self.seconds, 1e-9),
            "end_to_end_samples_per_second": num_samples / whole,
            "end_to_end_seconds": whole,
            "latency_ms_p50": 1e3 * float(p50),
            "latency_ms_p95": 1e3 * float(p95),
        }


class Stopwatch:
    """Measures the time of `running` blocks, and the time from end to end.

    The time from end to end starts when the stopwatch is made and ends with the last block.

    Attributes:
        laps: times of the blocks in seconds.
    """

    def __init__(self):
        self.laps: list[float] = []
        self._started = self._ended = time.perf_counter()
        self._excluded = 0.0

    @property
    def seconds(self) -> float:
        """Total time of the blocks in seconds."""
        return sum(self.laps)

    @contextlib.contextmanager
    def running(self):
        """Measures the time of a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._ended = time.perf_counter()
            self.laps.append(self._ended - started)

    @contextlib.contextmanager
    def excluded(self):
        """Excludes a block from the time from end to end."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._excluded += time.perf_counter() - started

    @property
    def times(self) -> Times:
        """The times up to the last block."""
        whole = self._ended - self._started - self._excluded
        return Times(tuple(self.laps), self.seconds, whole)

    def speed(self, num_samples: int) -> dict[str, float]:
        """Computes rates and latencies up to the last block; see `Times.speed`."""
        return self.times.speed(num_samples)


def runner_facts(runner: Runner) -> dict:
    """Returns the facts about a runner for a report.

    They include the numbers of input shapes of this runner, and the peak memory of the process.
    """
    manifest = getattr(runner, "manifest", None) or {}
    asked = manifest.get("request", {}).get("quantization")
    return {
        "precision": runner.precision,
        "mode": runner.mode,
        "backend": runner.backend,
        "quantization": asked,
        "conversion_seconds": manifest.get("seconds"),
        "model_mib": sum(path.stat().st_size for path in runner.files) / 2**20,
        "shapes": runner.shapes.described() if hasattr(runner, "shapes") else None,
        "peak_memory_mib": peak_resident_bytes() / 2**20,
    }


@dataclass(frozen=True, slots=True)
class SpeechRow:
    """A recognized utterance.

    Attributes:
        path: path of the sound file.
        duration_seconds: length of the sound.
        reference: transcript; None if there is none.
        text: recognized text.
        beam_text: text of the beam search; None without a beam search.
    """

    path: str
    duration_seconds: float
    reference: str | None
    text: str
    beam_text: str | None = None


def speech_speed(recognition_seconds: float, rows: Sequence[SpeechRow]) -> dict[str, float]:
    """Computes the speed of recognition.

    Args:
        recognition_seconds: time of recognition, without loading and warm-up.
        rows: the recognized utterances.

    Returns:
        `rtf`: recognition time / audio time; `rtfx`: its inverse; `audio_seconds`.
    """
    audio_seconds = sum(row.duration_seconds for row in rows)
    seconds = max(recognition_seconds, 1e-9)
    return {
        "rtf": seconds / max(audio_seconds, 1e-9),
        "rtfx": audio_seconds / seconds,
        "audio_seconds": audio_seconds,
    }


def skipped_lines(skipped: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yields messages about skipped files: one for each of the first 20, and one for the others.

    Args:
        skipped: `(path, reason)` of each skipped file.
    """
    for path, reason in skipped[:_MOST_NAMED]:
        yield f"skipped {one_line(path)}: {reason}"
    if len(skipped) > _MOST_NAMED:
        yield f"skipped {len(skipped) - _MOST_NAMED} more; --result_path lists them all"


def write_report(path: Path, summary: Mapping, rows: Sequence[SpeechRow]) -> None:
    """Writes a JSON summary, and a TSV file of the texts beside it.

    Each file is written completely or not at all.

    Args:
        path: path of the JSON or of the TSV file; the other file differs in the suffix.
        summary: content of the JSON file.
        rows: rows of the TSV file. Control characters in paths are escaped.

    Raises:
        UserError: the files cannot be written.
    """
    table = result_file(path, ".tsv")
    if table == path:
        path = result_file(path, ".json")
    lines = [TSV_HEADER]
    for row in rows:
        texts = row.reference or "", row.text, row.beam_text or ""
        lines.append((one_line(row.path), f"{row.duration_seconds:.3f}", *texts))
    # The format has no quotes: tabs and newlines become spaces.
    cells = [[cell.translate(_SEPARATORS) for cell in line] for line in lines]
    tsv = "".join("\t".join(line) + "\n" for line in cells)
    write_text(table, tsv)
    write_text(path, to_json(summary, indent=1))
