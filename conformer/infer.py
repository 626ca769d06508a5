"""Recognizes sound files, folders, or a LibriSpeech-layout corpus with an exported Conformer."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tools.config.command_line import CommandLine, run
from tools.conversion.quantization import Examples
from tools.conversion.saved_model import read_pipeline
from tools.inference.flags import add_inference_flags, open_runner, restrict_devices
from tools.inference.runner import answer
from tools.recognition.program import Recognizer, Transcript, read_examples, run_recognizer
from tools.recognition.sounds import check_flags, chosen_utterances
from tools.speech.audio import AudioLimits

BUNDLED_MODEL = Path(__file__).resolve().parent / "pretrained" / "digits"


def command_line() -> CommandLine:
    """The program's flags."""
    flags = CommandLine(
        "conformer/infer.py",
        "Recognizes sound files or folders, or recognizes and scores a corpus.",
        "[FLAGS] [FILE|FOLDER ...]",
    )
    add_inference_flags(flags)
    return flags


def examples(pipeline: dict, data_dir: Path, num_samples: int, judged: bool) -> Examples:
    """Reads utterances to calibrate with; see `tools.inference.flags.family`."""
    limits = AudioLimits(rate_hz=pipeline["sample_rate_hz"], max_seconds=pipeline["max_seconds"])

    def texts(run, inputs):
        return [text.decode() for text in answer(run, pipeline)(inputs)["text"]]

    return read_examples(data_dir, num_samples, limits, judged, texts)


def main(argv: list[str]) -> int:
    """Runs the program."""
    values, paths = command_line().parse(argv)
    check_flags(values, paths)
    restrict_devices(values)
    model_dir = values.native_savedmodel_dir or BUNDLED_MODEL
    pipeline = read_pipeline(model_dir, "conformer")
    limits = AudioLimits(
        rate_hz=pipeline["sample_rate_hz"],
        max_seconds=values.max_seconds or pipeline["max_seconds"],
    )
    utterances, skipped = chosen_utterances(values, paths, limits)
    runner = open_runner(values, model_dir)

    def transcribe(inputs):
        return [Transcript(text.decode()) for text in runner.run(inputs)["text"]]

    recognizer = Recognizer(runner, limits, transcribe)
    return run_recognizer(recognizer, values, paths, utterances, skipped)


if __name__ == "__main__":
    run(main)
