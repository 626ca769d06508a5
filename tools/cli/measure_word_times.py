"""Measures how far the word times of a speech model are from the true ones, and stores its delay.

The true times come from a split that `tools.cli.join_corpus --times` has made. A model that emits a
word only after it has heard it is late by a constant time; `--store` writes the median lateness of
starts and ends to the model's `pipeline.json`, and recognition subtracts it.
"""

import contextlib
import difflib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.conversion.pipeline import MANIFEST_FILE, PIPELINE_FILE, describe
from tools.decoding.timestamps import Word
from tools.errors import UserError
from tools.families import open_session
from tools.files import to_json, write_text
from tools.inference.options import RunnerOptions
from tools.speech.audio import AudioLimits
from tools.speech.corpus import read_corpus
from tools.speech.part_times import Part, read_times

_CLOSE_SECONDS = 0.1
_LONGEST_SECONDS = 3600.0


def matched(parts: Sequence[Part], words: Sequence[Word]) -> Iterator[tuple[Part, Word, Word]]:
    """Yields each part whose first and last word were recognized, with these two words.

    Args:
        parts: parts of an utterance in order.
        words: recognized words of the utterance.
    """
    said = [part.transcript.split() for part in parts]
    flat, heard = [word for part in said for word in part], [word.text for word in words]
    blocks = difflib.SequenceMatcher(None, flat, heard, autojunk=False).get_matching_blocks()
    place = {a + n: b + n for a, b, size in blocks for n in range(size)}
    first = 0
    for part, own in zip(parts, said, strict=True):
        last = first + len(own) - 1
        if first in place and last in place:
            yield part, words[place[first]], words[place[last]]
        first = last + 1


def report(errors: np.ndarray, num_parts: int) -> dict[str, float]:
    """Returns the figures of errors in seconds: recognized minus true starts.

    Args:
        errors: `[N]` errors of the parts whose words were recognized.
        num_parts: number of all parts.
    """
    sizes = np.abs(errors)
    return {
        "num_parts": num_parts,
        "num_recognized": len(errors),
        "median_ms": 1000 * float(np.median(errors)),
        "median_error_ms": 1000 * float(np.median(sizes)),
        "p90_error_ms": 1000 * float(np.quantile(sizes, 0.9)),
        "within_100_ms": float((sizes <= _CLOSE_SECONDS).mean()),
    }


def store(model_dir: str, start_seconds: float, end_seconds: float) -> Path:
    """Adds delays of starts and ends to those in a model's `pipeline.json`.

    Args:
        model_dir: exported or converted model.
        start_seconds: lateness of starts that is left.
        end_seconds: lateness of ends that is left.

    Returns:
        The path of the file.
    """
    folder = Path(model_dir)
    path = folder / PIPELINE_FILE
    if not (folder / MANIFEST_FILE).is_file():
        path = folder / "assets" / PIPELINE_FILE
    pipeline = json.loads(path.read_text(encoding="utf-8"))
    known = pipeline.get("word_delay_seconds", {})
    pipeline["word_delay_seconds"] = {
        "start": round(known.get("start", 0.0) + start_seconds, 3),
        "end": round(known.get("end", 0.0) + end_seconds, 3),
    }
    write_text(path, to_json(pipeline, indent=1) + "\n")
    return path


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "tools.cli.measure_word_times",
        "Measures the errors of word times on a joined corpus, and stores the delay of a model.",
        "--native_savedmodel_dir=DIR --split_dir=DIR [FLAGS]",
        example="--native_savedmodel_dir=exports/m --split_dir=JOINED/times --store",
    )
    flags.group("Model")
    flags.string("native_savedmodel_dir", None, "Speech model to run.", default_text=REQUIRED)
    flags.group("Input")
    about = "Split that tools.cli.join_corpus --times has made."
    flags.string("split_dir", None, about, default_text=REQUIRED)
    flags.group("Runtime")
    flags.boolean("run_eagerly", False, "Runs the SavedModel in TensorFlow.")
    flags.integer("batch_size", 8, "Number of utterances in a batch.")
    flags.group("Output")
    about = "Adds the median lateness of starts and ends to the model's pipeline.json."
    flags.boolean("store", False, about)
    values, rest = flags.parse(argv)
    if rest or not values.native_savedmodel_dir or not values.split_dir:
        raise UserError.expected(
            "--native_savedmodel_dir DIR --split_dir DIR", " ".join(argv) or "nothing", "See --help"
        )
    times = read_times(values.split_dir)
    rate_hz = describe(values.native_savedmodel_dir)["sample_rate_hz"]
    limits = AudioLimits(rate_hz, max_seconds=_LONGEST_SECONDS)
    utterances = read_corpus(values.split_dir, (), limits).utterances
    utterances = [one for one in utterances if one.utterance_id in times]
    options = RunnerOptions(run_eagerly=values.run_eagerly, batch_size=values.batch_size)
    with contextlib.closing(open_session(values.native_savedmodel_dir, options)) as session:
        if not hasattr(session, "transcribe"):
            raise UserError.expected("a speech model", session.pipeline["family"], "Name another")
        heard = session.transcribe([one.path for one in utterances], timestamps=True)
    starts, ends, num_parts = [], [], 0
    for utterance, found in zip(utterances, heard, strict=True):
        parts = times[utterance.utterance_id]
        num_parts += len(parts)
        for part, first, last in matched(parts, found.words):
            starts.append(first.start_seconds - part.start_seconds)
            ends.append(last.end_seconds - part.end_seconds)
    if not starts:
        raise UserError.expected("parts whose words are recognized", "none", "Use another model")
    figures = report(np.array(starts), num_parts)
    print(to_json({"start": figures, "end": report(np.array(ends), num_parts)}, indent=1))
    if values.store:
        medians = (float(np.median(starts)), float(np.median(ends)))
        print(f"stored in {store(values.native_savedmodel_dir, *medians)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
