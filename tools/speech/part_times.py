"""Starts and ends of spoken parts by level, and the table `times.tsv` of a joined corpus."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.errors import UserError

TIMES_NAME = "times.tsv"
_HEADER = "UTTERANCE\tSTART\tEND\tTRANSCRIPT"
_FRAME_SECONDS = 0.01
_LEVEL_DB = -40.0  # of speech, relative to the loudest frame


class Part(NamedTuple):
    """A part of a joined utterance: its first and last speech, and its words."""

    start_seconds: float
    end_seconds: float
    transcript: str


def speech_range(sound: np.ndarray, rate_hz: int) -> tuple[int, int]:
    """Returns the first sample of the first loud frame, and the end of the last one.

    Frames last 10 ms. They are loud if their level is at most 40 dB below that of the loudest one.

    Args:
        sound: `[S]` samples.
        rate_hz: sampling rate.
    """
    size = round(_FRAME_SECONDS * rate_hz)
    frames = np.pad(sound, (0, -len(sound) % size)).reshape(-1, size)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power >= power.max(initial=0.0) * 10 ** (_LEVEL_DB / 10))
    if not len(loud):
        return 0, len(sound)
    return int(loud[0]) * size, min(len(sound), (int(loud[-1]) + 1) * size)


def times_lines(utterance_id: str, parts: list[Part]) -> str:
    """Returns the lines of an utterance for `times.tsv`."""
    return "".join(
        f"{utterance_id}\t{part.start_seconds:.6f}\t{part.end_seconds:.6f}\t{part.transcript}\n"
        for part in parts
    )


def write_times(folder: Path, lines: str) -> None:
    """Writes `times.tsv` into a new folder."""
    (folder / TIMES_NAME).write_text(f"{_HEADER}\n{lines}", encoding="utf-8")


def read_times(split_dir: str | Path) -> dict[str, list[Part]]:
    """Reads the parts of each utterance of a split that `join_corpus --times` has made.

    Raises:
        UserError: there is no such table, or it has other columns.
    """
    path = Path(split_dir) / TIMES_NAME
    try:
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        found: dict[str, list[Part]] = defaultdict(list)
        for utterance, start, end, transcript in (row.split("\t") for row in rows):
            found[utterance].append(Part(float(start), float(end), transcript))
    except (OSError, ValueError) as error:
        raise UserError.expected(
            f"a table of parts in {path}", error, "Make it with tools.cli.join_corpus --times"
        ) from error
    if head != _HEADER:
        raise UserError.expected(f"the columns {_HEADER!r}", repr(head), "Make the split again")
    return dict(found)
