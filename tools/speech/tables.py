"""Tables of utterances as TensorFlowASR writes them: `PATH<TAB>DURATION<TAB>TRANSCRIPT`.

A relative path starts at the folder of the table. Durations must be above 0, but the lengths of
the sound files are used.

Source: TensorFlowASR 1.0.4, datasets/asr_dataset.py and scripts/create_librispeech_trans.py.
"""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from urllib.parse import quote

from tools.errors import UserError
from tools.files import expand_home, one_line
from tools.speech.transcript_files import MAX_TABLE_BYTES, Line, text_lines

HEADER = ("PATH", "DURATION", "TRANSCRIPT")
TABLE_SUFFIXES = (".tsv", ".csv", ".txt")
TABLE_NAME = "transcripts.tsv"  # the table of a folder


def table_rows(
    path: str, skipped: defaultdict[str, list[str]], normalize: Callable[[str], str]
) -> list[tuple[Line, str]] | None:
    """Reads a table.

    Args:
        path: of the table. The header may be missing.
        skipped: gets the details of rows that cannot be used, by key of
            `tools.speech.corpus.SKIP_REASONS`.
        normalize: function applied to every transcript.

    Returns:
        Pairs of a row and the path of its sound file; None for a table without rows. The id of an
        utterance is the name of the file without suffix, or, if names occur twice, its path
        relative to the folder of the table.

    Raises:
        UserError: the first line is neither the header nor a row.
    """
    num_skipped = sum(map(len, skipped.values()))
    rows = []
    for number, (place, text) in enumerate(text_lines(path, skipped, MAX_TABLE_BYTES)):
        fields = text.split("\t")
        if number == 0 and tuple(x.strip().upper() for x in fields) == HEADER:
            continue
        if number == 0 and not (len(fields) == len(HEADER) and _is_number(fields[1])):
            raise UserError.expected(
                f"the header {'<TAB>'.join(HEADER)} or such a row in {place}",
                one_line(text[:60]),
                "Separate the three columns by tabs",
            )
        if len(fields) != len(HEADER) or not fields[0].strip():
            skipped["bad_row"].append(f"{place}: {len(fields)} columns")
        elif not (_is_number(fields[1]) and 0 < float(fields[1]) < math.inf):
            skipped["bad_duration"].append(f"{place}: {one_line(fields[1])!r}")
        else:
            sound = os.path.join(os.path.dirname(path), expand_home(fields[0].strip()))
            rows.append((place, os.path.normpath(sound), normalize(fields[2])))
    if not rows and sum(map(len, skipped.values())) == num_skipped:
        return None
    counts = Counter(sound for _, sound, _ in rows)
    ids = _ids(counts, os.path.dirname(path) or os.curdir)
    pairs = []
    for place, sound, transcript in rows:
        if counts[sound] > 1:
            skipped["duplicate_id"].append(f"{place}: {sound}")
        elif not transcript:
            skipped["empty_transcript"].append(f"{place}: {sound}")
        else:
            pairs.append((Line(place, ids[sound], transcript), sound))
    return pairs


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _ids(sounds: Iterable[str], folder: str) -> dict[str, str]:
    """Returns a different id without spaces for each sound file of a table in `folder`."""
    ids = {x: "_".join(os.path.splitext(os.path.basename(x))[0].split()) for x in sounds}
    if len(set(ids.values())) < len(ids):
        paths = {x: os.path.relpath(x, folder) for x in ids}
        ids = {x: re.sub(r"[\s%]", lambda m: quote(m[0]), path) for x, path in paths.items()}
    return ids
