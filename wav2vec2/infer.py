"""Recognizes sound files, folders, or a LibriSpeech-layout corpus with an exported wav2vec 2.0."""

import functools
import os
import sys
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.inference.flags import add_inference_flags
from tools.inference.opening import restrict_devices
from tools.inference.options import DataOptions
from tools.recognition.program import run_program
from tools.recognition.sounds import check_options
from tools.speech.transcripts import normalization
from wav2vec2.session import (
    RecognitionOptions,
    describe_model,
    limits_of,
    open_session,
    window_of,
)

_DEFAULTS = RecognitionOptions()


def command_line() -> CommandLine:
    """The program's flags."""
    flags = CommandLine(
        "wav2vec2.infer",
        "Recognizes sound files or folders, or recognizes and scores a corpus.",
        "--native_savedmodel_dir=DIR [FLAGS] [FILE|FOLDER ...]",
        example="sound.wav --native_savedmodel_dir=exports/w2v",
    )
    flags.group("Output")
    flags.boolean("timestamps", False, "Prints each word with its start and end in seconds.")
    flags.group("Decoding")
    about = "Cuts longer recordings into chunks of this length."
    flags.number("chunk_seconds", _DEFAULTS.chunk_seconds, about)
    about = "Length that each chunk shares with the next one."
    flags.number("overlap_seconds", _DEFAULTS.overlap_seconds, about)
    about = "Hypotheses of the beam search; 0: greedy decoding alone."
    flags.integer("beam_width", _DEFAULTS.beam_width, about)
    about = "N-gram language model of the beam search: an ARPA or KenLM file."
    flags.string("lm_path", None, about, default_text="none")
    flags.number("lm_weight", _DEFAULTS.lm_weight, "Weight of the language model.")
    about = "Added to the score for each word, with a language model."
    flags.number("word_bonus", _DEFAULTS.word_bonus, about)
    add_inference_flags(flags, REQUIRED)
    return flags


def main(argv: list[str]) -> int:
    """Runs the program."""
    values, paths = command_line().parse(argv)
    options = from_flags(RecognitionOptions, values)
    data = from_flags(DataOptions, values, paths=tuple(paths))
    check_options(data, options.max_seconds)
    restrict_devices(options.visible_devices)
    model_dir = values.native_savedmodel_dir
    if not model_dir:
        raise UserError.expected(
            "--native_savedmodel_dir DIR", "none", "Make one with `python -m wav2vec2.export`"
        )
    # Checks the search before the corpus is read.
    if options.beam_search() is not None and data.timestamps:
        raise UserError.expected(
            "--timestamps or --beam_width: the words of a beam search have no times",
            f"--timestamps --beam_width {options.beam_width}",
            "Leave one of them out",
        )
    pipeline = describe_model(model_dir)
    window_of(pipeline, options)
    normalize = normalization(pipeline["vocabulary"]["surfaces"])
    opening = functools.partial(open_session, model_dir, options)
    return run_program(opening, limits_of(pipeline, options), data, normalize)


def cli() -> NoReturn:
    """Runs the program as a command of the shell."""
    run(main)


if __name__ == "__main__":
    cli()
