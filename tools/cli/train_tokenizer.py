"""Makes a vocabulary file from the transcripts of a corpus in the layout of LibriSpeech."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from conformer.tokenizer import (
    MODEL_TYPES,
    CharacterTokenizer,
    SentencePieceTokenizer,
    save_tokenizer,
)
from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import check_not_input
from tools.speech.audio import AudioLimits
from tools.speech.corpus import read_corpus

KINDS = (CharacterTokenizer.kind, SentencePieceTokenizer.kind)


def main(argv: list[str]) -> int:
    """Runs the program."""
    command_line = CommandLine(
        "tools.cli.train_tokenizer",
        __doc__,
        "--data_dir=DIR --output=FILE [FLAGS]",
        example="--data_dir=LibriSpeech --splits=train-clean-100 --output=vocabulary.json",
    )
    command_line.group("Input")
    command_line.string("data_dir", None, "Root of the corpus.", default_text=REQUIRED)
    about = "Splits to read, separated by commas; empty: all transcripts below --data_dir."
    command_line.string("splits", "", about)
    command_line.group("Training")
    command_line.enum("kind", SentencePieceTokenizer.kind, KINDS, "Kind of tokens.")
    about = "Algorithm of sentencepiece."
    command_line.enum("model_type", MODEL_TYPES[0], MODEL_TYPES, about)
    about = "Number of sentencepiece tokens, including the blank."
    command_line.integer("vocabulary_size", 1000, about)
    command_line.group("Output")
    command_line.string("output", None, "File to write.", default_text=REQUIRED)
    flags = command_line.parse_flags(argv)
    for name in ("data_dir", "output"):
        if not getattr(flags, name):
            raise UserError.expected(f"--{name}", "none", "See --help")
    if Path(flags.output).is_dir():
        raise UserError.expected("a file as --output", f"the folder {flags.output}", "Name a file")
    check_not_input(Path(flags.output), [flags.data_dir])
    splits = [split.strip() for split in flags.splits.split(",") if split.strip()]
    manifest = read_corpus(flags.data_dir, splits, AudioLimits())
    transcripts = [utterance.transcript for utterance in manifest.utterances]
    if flags.kind == CharacterTokenizer.kind:
        tokenizer = CharacterTokenizer.from_transcripts(transcripts)
    else:
        tokenizer = SentencePieceTokenizer.train(
            transcripts, flags.vocabulary_size, flags.model_type
        )
    save_tokenizer(tokenizer, flags.output)
    print(manifest.summary(), file=sys.stderr)
    print(f"{flags.output}: {counted(tokenizer.vocabulary_size, 'symbol')}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
