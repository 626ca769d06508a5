"""Draws the spectrogram of a sound with the recognized words over it."""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from matplotlib.figure import Figure

import conformer.session
from tools.config.command_line import CommandLine, run
from tools.decoding.timestamps import Word
from tools.errors import UserError
from tools.families import open_session
from tools.files import check_writable, write_bytes
from tools.inference.options import RunnerOptions
from tools.speech.audio import load

_WINDOW_SECONDS, _STEP_SECONDS = 0.025, 0.01
_RANGE_DB = 70.0
_LONGEST_SECONDS = 120.0
_INCHES_PER_SECOND, _MIN_INCHES, _MAX_INCHES = 2.5, 8.0, 100.0
_DPI = 100


def spectrogram(sound: np.ndarray, rate_hz: int) -> np.ndarray:
    """Returns the levels of a sound in dB, `[T, F]`, at most 70 dB below the largest.

    Args:
        sound: `[S]` samples.
        rate_hz: sampling rate.
    """
    size, step = round(_WINDOW_SECONDS * rate_hz), round(_STEP_SECONDS * rate_hz)
    padded = np.pad(sound, (size // 2, size))
    starts = np.arange(1 + len(sound) // step) * step
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))
    levels = 10 * np.log10(power + 1e-12)
    return np.maximum(levels, levels.max(initial=-120.0) - _RANGE_DB)


def draw(sound: np.ndarray, rate_hz: int, words: Sequence[Word], title: str) -> bytes:
    """Draws a spectrogram and the words with their times and confidences, as a PNG.

    Args:
        sound: `[S]` samples.
        rate_hz: sampling rate.
        words: recognized words.
        title: title of the picture.
    """
    seconds = len(sound) / rate_hz
    width = np.clip(_INCHES_PER_SECOND * seconds, _MIN_INCHES, _MAX_INCHES)
    figure = Figure((float(width), 4), layout="constrained")
    axes = figure.add_subplot()
    extent = (0, max(seconds, _STEP_SECONDS), 0, rate_hz / 2000)
    levels = spectrogram(sound, rate_hz)
    axes.imshow(levels.T, "magma", aspect="auto", origin="lower", extent=extent)
    for word in words:
        axes.axvspan(word.start_seconds, word.end_seconds, color="white", alpha=0.15, linewidth=0)
        for edge in (word.start_seconds, word.end_seconds):
            axes.axvline(edge, color="white", linewidth=0.6)
        middle = (word.start_seconds + word.end_seconds) / 2
        axes.text(
            middle,
            0.94 * extent[3],
            f"{word.text}\n{word.confidence:.2f}",
            color="white",
            ha="center",
            va="top",
            parse_math=False,
        )
    axes.set(xlabel="seconds", ylabel="kHz", xlim=extent[:2], ylim=extent[2:])
    axes.set_title(title, parse_math=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "tools.cli.show_alignment",
        "Draws the spectrogram of a sound with the recognized words, their times and confidences.",
        "[FLAGS] FILE",
        example="conformer/pretrained/digits/sample.flac --output=alignment.png",
    )
    flags.group("Model")
    about = "Speech model to run."
    flags.string("native_savedmodel_dir", None, about, default_text="the bundled one")
    flags.group("Output")
    flags.string("output", "alignment.png", "PNG file to write.", short_name="o")
    flags.group("Runtime")
    flags.boolean("run_eagerly", False, "Runs the SavedModel in TensorFlow.")
    values, paths = flags.parse(argv)
    if len(paths) != 1:
        raise UserError.expected("one sound file", f"{len(paths)}", "Name a sound file")
    if Path(values.output).suffix.lower() != ".png":
        raise UserError.expected("an --output FILE.png", values.output, "Correct --output")
    check_writable(Path(values.output))
    model_dir = values.native_savedmodel_dir or conformer.session.BUNDLED_MODEL
    options = RunnerOptions(run_eagerly=values.run_eagerly, max_seconds=_LONGEST_SECONDS)
    with open_session(model_dir, options) as session:
        if not hasattr(session, "transcribe"):
            raise UserError.expected("a speech model", session.pipeline["family"], "Name another")
        sound = load(paths[0], session.limits)
        rate_hz = session.limits.rate_hz
        found = session.transcribe(sound, rate_hz=rate_hz, timestamps=True)
    write_bytes(Path(values.output), draw(sound, rate_hz, found.words, Path(paths[0]).name))
    print(f"{values.output}: {len(found.words)} words", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
