"""Lines of transcript files: UTF-8 text with any line ends, with or without a byte-order mark."""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LINE_CHARACTERS = 10_000
MAX_TRANSCRIPT_BYTES = 1 << 26  # of a chapter
MAX_TABLE_BYTES = 1 << 32

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Line:
    """A valid line of a transcript file.

    Attributes:
        place: "file:line", for messages.
        utterance_id: id of the utterance.
        transcript: normalized words.
    """

    place: str
    utterance_id: str
    transcript: str


def text_lines(
    path: str, skipped: defaultdict[str, list[str]], max_bytes: int
) -> Iterator[tuple[str, str]]:
    """Yields the lines of a transcript file that are short UTF-8 text, without blank lines.

    Args:
        path: transcript file.
        skipped: gets the details of other lines, by key of `tools.speech.corpus.SKIP_REASONS`.
        max_bytes: a larger file is not read.

    Yields:
        The place of a line as "file:line", and its text.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            skipped["unreadable_transcript"].append(f"{path}: not a file")
            return
        if status.st_size > max_bytes:
            detail = f"{path}: {status.st_size} bytes, more than {max_bytes >> 20} MiB"
            skipped["unreadable_transcript"].append(detail)
            return
        data = Path(path).read_bytes()
    except OSError as error:
        skipped["unreadable_transcript"].append(f"{path}: {error.strerror}")
        return
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        skipped["not_text"].append(f"{path}:1: UTF-16, not UTF-8")
        return
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        place = f"{path}:{number}"
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            skipped["not_text"].append(f"{place}: not UTF-8")
            continue
        if not text.strip(" "):
            continue
        if len(text) > MAX_LINE_CHARACTERS:
            skipped["long_line"].append(f"{place}: {len(text)} characters")
        elif _CONTROL_CHARACTERS.search(text):
            skipped["not_text"].append(f"{place}: control characters")
        else:
            yield place, text
