"""Runs a model before it answers, so that the first requests do not wait for its runtime."""

import re

import numpy as np

from tools.errors import UserError
from tools.inference.session import Session
from tools.recognition.session import SpeechSession
from tools.serving.joined_rows import most_rows

_NUM_LENGTHS = 100  # with fewer, a size for each of them would count as too expensive

_RANGE = re.compile(r"(\d{1,9}(?:\.\d+)?):(\d{1,9}(?:\.\d+)?)", re.ASCII)


def parse_seconds(text: str) -> tuple[float, float] | None:
    """Parses the flag `--warm_up_seconds`.

    Args:
        text: lengths of the shortest and the longest sound, such as "1:8.5"; "" for no warm-up.

    Raises:
        UserError: the text has another form, or a length is 0 or above the next one.
    """
    if not text:
        return None
    found = _RANGE.fullmatch(text)
    low, high = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
    if not 0 < low <= high:
        raise UserError.expected(
            "--warm_up_seconds SHORTEST:LONGEST, such as 1:8", text, "Correct the flag"
        )
    return low, high


def warm_up(session: Session, seconds: tuple[float, float], max_rows: int) -> None:
    """Prepares a converted recognizer for batches of sounds; does nothing for other models.

    The runtime prepares each shape of a batch when it first occurs. Batches of silence have all
    shapes to which batches of these lengths are padded: each size with the largest number of rows
    and with all powers of 2 below it.

    Args:
        session: the opened model.
        seconds: length of the shortest and of the longest sound. Lengths that are refused or
            divided into chunks are left out.
        max_rows: largest batch.
    """
    if not isinstance(session, SpeechSession):
        return
    longest = min(seconds[1], session.limits.max_seconds) * session.limits.rate_hz
    spread = np.linspace(*seconds, _NUM_LENGTHS) * session.limits.rate_hz
    lengths = [round(x) for x in spread if x <= longest and not session.is_long(round(x))]
    most = min([max_rows, *map(most_rows, session.signatures["serving_default"])])
    # The largest batch first, because smaller ones are padded to at most the largest one so far.
    for rows in [most, *(1 << power for power in reversed(range((most - 1).bit_length())))]:
        session.prepare(lengths, rows)
