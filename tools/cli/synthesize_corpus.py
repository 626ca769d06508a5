"""Synthesizes a corpus of digits, words or sentences; see `tools.speech.synthetic_corpus`."""

import sys
from pathlib import Path

from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import is_made_of
from tools.speech.synthetic_corpus import (
    CORPUS_FILE,
    SPLITS,
    Arguments,
    make_corpus,
    read_lines,
)


def main(argv: list[str]) -> int:
    """Runs the program."""
    command_line = CommandLine(
        "tools.cli.synthesize_corpus",
        "Synthesizes a corpus of digits or other texts with espeak-ng, in LibriSpeech's layout.",
        "--output_dir=DIR [FLAGS]",
        example="--output_dir=data/digits --train_utterances=240",
    )
    command_line.group("Output")
    command_line.string("output_dir", None, "New folder to write.", default_text=REQUIRED)
    command_line.integer("train_utterances", 240, "Utterances of the first split.")
    about = "Utterances of the second split, by the same speakers."
    command_line.integer("dev_utterances", 60, about)
    command_line.string("splits", ",".join(SPLITS), "Names of the two splits.")
    command_line.integer("num_speakers", 8, "Speakers, each with a voice, pitch and rate.")
    command_line.integer("max_words", 5, "Most digits, or lines of --words, in an utterance.")
    about = "File of words or names to draw instead of digits, one a line."
    command_line.string("words", None, about, default_text="digits")
    about = "File of sentences to draw instead, one a line; each is an utterance."
    command_line.string("sentences", None, about, default_text="none")
    command_line.integer("seed", 0, "Seed of all random choices.")
    flags = command_line.parse_flags(argv)
    if not flags.output_dir:
        raise UserError.expected("--output_dir", "none", "Name a folder to write")
    if flags.words and flags.sentences:
        raise UserError.expected("--words or --sentences", "both", "Leave one of them out")
    arguments = Arguments(
        train_utterances=flags.train_utterances,
        dev_utterances=flags.dev_utterances,
        num_speakers=flags.num_speakers,
        max_words=flags.max_words,
        seed=flags.seed,
        splits=tuple(flags.splits.split(",")),
        words=read_lines(flags.words, "words") if flags.words else (),
        sentences=read_lines(flags.sentences, "sentences") if flags.sentences else (),
    )
    arguments.validate()
    output_dir = Path(flags.output_dir).absolute()
    if is_made_of(output_dir / CORPUS_FILE, arguments.record, "a corpus"):
        print(f"{flags.output_dir} was already made with these arguments.", file=sys.stderr)
        return 0
    minutes = make_corpus(output_dir, arguments) / 60
    num_utterances = arguments.train_utterances + arguments.dev_utterances
    print(
        f"{flags.output_dir}: {counted(num_utterances, 'utterance')}, {minutes:.1f} minutes.",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run(main)
