"""Recognizes sound files, folders, or a corpus in LibriSpeech layout with an exported model."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.inference.flags import add_inference_flags
from tools.inference.options import DataOptions
from tools.inference.pretrained import add_pretrained_flag, chosen_source
from tools.recognition.options import RecognitionOptions, add_recognition_flags
from tools.recognition.program import run_program
from tools.recognition.ranks import Ranks, add_horovod_flag, claim_devices, start_ranks
from tools.recognition.session import SpeechSession
from tools.recognition.sounds import check_options
from tools.recognition.windows import session_lengths
from tools.speech.audio import AudioLimits
from tools.speech.transcripts import normalization
from wav2vec2.session import describe_model, exported, open_session


def command_line() -> CommandLine:
    """Returns the flags of the program."""
    flags = CommandLine(
        "wav2vec2.infer",
        "Recognizes sound files or folders, or recognizes a corpus and computes the error rates.",
        "--native_savedmodel_dir=DIR [FLAGS] [FILE|FOLDER ...]",
        example="sound.wav --native_savedmodel_dir=exports/w2v",
    )
    add_recognition_flags(flags)
    add_horovod_flag(flags)
    add_inference_flags(flags, REQUIRED)
    add_pretrained_flag(flags, "Hugging Face folder, training run or checkpoint")
    return flags


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values, paths = command_line().parse(argv)
    ranks = start_ranks(values.use_horovod)
    return run_program(*ranks.on_every_rank(lambda: _prepare(values, paths, ranks)), ranks=ranks)


def _prepare(
    values: SimpleNamespace, paths: Sequence[str], ranks: Ranks
) -> tuple[Callable[[], SpeechSession], AudioLimits, DataOptions, Callable[[str], str]]:
    """Checks the flags, and returns the arguments of `run_program`."""
    threads = claim_devices(ranks, values.visible_devices, values.threads)
    options = from_flags(RecognitionOptions, values, threads=threads)
    data = from_flags(DataOptions, values, paths=tuple(paths))
    check_options(data, options.max_seconds)
    source = chosen_source(values.native_savedmodel_dir, values.pretrained)
    if not source:
        raise UserError.expected(
            "--native_savedmodel_dir DIR or --pretrained SOURCE",
            "neither",
            "Export a model with `python -m wav2vec2.export`, or name its weights",
        )
    model_dir = exported(source)
    # Check the options of the search before the corpus is read.
    options.beam_search()
    pipeline = describe_model(model_dir)
    limits = session_lengths(model_dir, pipeline, options)["limits"]
    normalize = normalization(pipeline["vocabulary"]["surfaces"])
    opening = functools.partial(open_session, model_dir, options)
    return opening, limits, data, normalize


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
