"""Divides a split of a corpus into a training split and a held-out split for evaluation.

The new splits contain links to the sound files, and their own transcript files.
"""

import os
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import new_folder
from tools.speech.audio import AudioLimits
from tools.speech.config import MAX_SECONDS
from tools.speech.corpus import TRANSCRIPT_SUFFIX, Utterance, read_corpus, speaker_of


def write_links(folder: Path, utterances: Sequence[Utterance]) -> None:
    """Writes a split: links SPEAKER/CHAPTER/ID.SUFFIX and files SPEAKER-CHAPTER.trans.txt."""
    chapters = defaultdict(list)
    for utterance in utterances:
        chapters[Path(utterance.path).absolute().parent].append(utterance)
    for source, members in chapters.items():
        chapter = folder / source.parent.name / source.name
        chapter.mkdir(parents=True)
        for utterance in members:
            path = Path(utterance.path).absolute()
            (chapter / path.name).symlink_to(path)
        lines = [f"{x.utterance_id} {x.transcript}\n" for x in members]
        name = f"{source.parent.name}-{source.name}{TRANSCRIPT_SUFFIX}"
        (chapter / name).write_text("".join(lines), encoding="utf-8")


def main(argv: list[str]) -> int:
    """Runs the program."""
    command_line = CommandLine(
        "tools.cli.split_corpus",
        "Splits a corpus at random into OUTPUT_DIR/SPLIT-fit and OUTPUT_DIR/SPLIT-held.",
        "--split_dir=CORPUS/SPLIT --output_dir=DIR [FLAGS]",
        example="--split_dir=LibriSpeech/train-clean-100 --output_dir=SPLITS --held_out=200",
    )
    command_line.group("Input")
    about = "Split of a LibriSpeech-layout corpus."
    command_line.string("split_dir", None, about, default_text=REQUIRED)
    command_line.group("Output")
    about = "Folder for the two new splits, which hold links to the sounds."
    command_line.string("output_dir", None, about, default_text=REQUIRED)
    command_line.integer("held_out", 100, "Utterances of SPLIT-held, to evaluate on.")
    command_line.integer("seed", 0, "Seed of the random choice.")
    flags, rest = command_line.parse(argv)
    if rest or not flags.split_dir or not flags.output_dir:
        raise UserError.expected(
            "--split_dir DIR --output_dir DIR", " ".join(argv) or "nothing", "See --help"
        )
    limits = AudioLimits(min_seconds=0.0, max_seconds=MAX_SECONDS)
    manifest = read_corpus(flags.split_dir, (), limits, normalize=str)
    print(f"{flags.split_dir}: {manifest.summary()}", file=sys.stderr)
    utterances = manifest.utterances
    for one in utterances:
        speaker_of(one)
    if not 1 <= flags.held_out < len(utterances):
        raise UserError.expected(
            f"--held_out from 1 to {len(utterances) - 1}, "
            f"of {counted(len(utterances), 'utterance')}",
            flags.held_out,
            "Correct the flag",
        )
    order = list(utterances)
    random.Random(flags.seed).shuffle(order)
    chosen = {utterance.path for utterance in order[: flags.held_out]}
    name = Path(flags.split_dir).absolute().name
    for part, is_held in (("fit", False), ("held", True)):
        place = Path(flags.output_dir) / f"{name}-{part}"
        if place.exists():
            raise UserError.expected(
                f"no folder {place}",
                "one from an earlier run",
                "Remove it or choose another --output_dir",
            )
        members = [x for x in utterances if (x.path in chosen) == is_held]
        with new_folder(place) as folder:
            write_links(folder, members)
        print(f"{place}: {counted(len(members), 'utterance')}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
