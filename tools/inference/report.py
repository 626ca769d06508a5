"""What a run of inference found and how fast it was."""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.files import write_text

TSV_HEADER = ("PATH", "DURATION", "GROUNDTRUTH", "GREEDY", "BEAMSEARCH")
_SEPARATORS = str.maketrans("\t\n\r", "   ")


class Stopwatch:
    """Adds up the time spent in `running` blocks; loading and warm-up stay outside of them."""

    def __init__(self):
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self):
        """Times a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class SpeechRow:
    """One recognized utterance; `reference` is None where there is no transcript."""

    path: str
    duration_seconds: float
    reference: str | None
    text: str


def speech_speed(recognition_seconds: float, rows: Sequence[SpeechRow]) -> dict[str, float]:
    """Computes speeds without loading and warm-up.

    Returns:
        `rtf`: recognition time / audio time; `rtfx`: its inverse; `samples_per_second`: utterances;
        `audio_seconds`.
    """
    audio_seconds = sum(row.duration_seconds for row in rows)
    seconds = max(recognition_seconds, 1e-9)
    return {
        "rtf": seconds / max(audio_seconds, 1e-9),
        "rtfx": audio_seconds / seconds,
        "samples_per_second": len(rows) / seconds,
        "audio_seconds": audio_seconds,
    }


def write_report(path: Path, summary: Mapping, rows: Sequence[SpeechRow]) -> None:
    """Writes the JSON summary and, beside it, the TSV of texts; each appears whole or not at all.

    Args:
        path: of the JSON, and the TSV has its name with `.tsv`; or of the TSV.
        summary: JSON-able.
        rows: in the order of the input.

    Raises:
        UserError: the files cannot be written.
    """
    table = path.with_suffix(".tsv")
    if table == path:
        path = path.with_suffix(".json")
    lines = [TSV_HEADER]
    for row in rows:
        lines.append((row.path, f"{row.duration_seconds:.3f}", row.reference or "", row.text, ""))
    # The format knows no quotes: what would end a column or a line becomes a space.
    cells = [[cell.translate(_SEPARATORS) for cell in line] for line in lines]
    tsv = "".join("\t".join(line) + "\n" for line in cells)
    write_text(table, tsv)
    write_text(path, json.dumps(summary, indent=1))
