"""Recognizes a long recording of joined utterances, and the same utterances one by one.

Each measurement runs in a process of its own, so that its peak memory is known. Before the clock
starts, each side recognizes its first minute.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Before any runtime.
from tools.benchmark.own_process import in_own_process  # isort: skip

import numpy as np
import soundfile

from tools.benchmark.robustness import open_speech, transcript_form
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.config.making_options import from_flags
from tools.conversion.machine import machine, processor
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.inference.flags import add_conversion_flags
from tools.inference.opening import restrict_devices
from tools.inference.options import RunnerOptions
from tools.memory import peak_resident_bytes
from tools.recognition.session import SpeechSession
from tools.speech.audio import AudioLimits, read
from tools.speech.corpus import Utterance, read_corpus
from tools.speech.scoring import score

SEED = 1
_WARMUP_SECONDS = 60.0
# Of a process: recognizes sounds after others, and returns texts, seconds and peak memory.
Recognize = Callable[[Sequence[str], Sequence[str]], dict]


def drawn(utterances: Sequence[Utterance], seconds: float) -> list[Utterance]:
    """Returns utterances in random order, all of them before one comes again.

    Args:
        utterances: at least one.
        seconds: length that they have together at least.
    """
    rng, found, total = np.random.default_rng(SEED), [], 0.0
    while total < seconds:
        for index in rng.permutation(len(utterances)):
            found.append(utterances[index])
            total += utterances[index].duration_seconds
            if total >= seconds:
                break
    return found


def write_joined(path: Path, utterances: Sequence[Utterance], limits: AudioLimits) -> float:
    """Writes utterances one after the other as a FLAC file; returns its length in seconds."""
    num_samples = 0
    with soundfile.SoundFile(path, "w", limits.rate_hz, 1) as file:
        for utterance in utterances:
            waveform = read(utterance.path, limits)
            file.write(waveform)
            num_samples += len(waveform)
    return num_samples / limits.rate_hz


def write_silence(path: Path, seconds: float, rate_hz: int) -> None:
    """Writes zeros as a FLAC file."""
    with soundfile.SoundFile(path, "w", rate_hz, 1) as file:
        left = round(seconds * rate_hz)
        while left > 0:
            file.write(np.zeros(min(left, 60 * rate_hz), np.int16))
            left -= 60 * rate_hz


def recognized(session: SpeechSession, first: Sequence[str], sounds: Sequence[str]) -> dict:
    """Recognizes files.

    Args:
        session: an open recognizer.
        first: files to recognize before the clock starts; may be empty.
        sounds: files to time.

    Returns:
        The texts, and the seconds that they took.
    """
    if first:
        session.transcribe([*first])
    started = time.perf_counter()
    found = session.transcribe([*sounds])
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "texts": [one.text for one in found]}


def recognize(
    model: str, options: RunnerOptions, first: Sequence[str], sounds: Sequence[str]
) -> dict:
    """Opens a model and recognizes files; adds the peak memory of this process in MiB."""
    with open_speech(model, options) as session:
        found = recognized(session, first, sounds)
    return found | {"peak_mib": peak_resident_bytes() / 2**20}


def measure(
    run_alone: Recognize,
    utterances: Sequence[Utterance],
    folder: Path,
    *,
    seconds: float,
    silence_seconds: float,
    limits: AudioLimits,
) -> dict:
    """Measures a long recording, its first minute, its utterances one by one, and silence.

    Args:
        run_alone: recognizes files in a process of its own.
        utterances: utterances to join.
        folder: folder for the recordings.
        seconds: length of the recording.
        silence_seconds: length of the silence; 0 for none.
        limits: limits of the model, whose rate the recordings have.

    Returns:
        By measurement: seconds, peak memory, and seconds of sound per second; of speech also the
        word error rate. The ratios compare the whole with its first minute, and with its parts.
    """
    parts = drawn(utterances, seconds)
    whole, minute = folder / "whole.flac", folder / "minute.flac"
    texts = [part.transcript for part in parts]
    total = write_joined(whole, parts, limits)
    beginning = drawn(utterances, min(seconds, _WARMUP_SECONDS))
    minute_seconds = write_joined(minute, beginning, limits)
    paths = [part.path for part in parts]
    rows = {}
    for name, first, sounds, length in (
        ("minute", [], [str(minute)], minute_seconds),
        ("whole", [str(minute)], [str(whole)], total),
        ("utterances", paths[: len(beginning)], paths, total),
    ):
        found = run_alone(first, sounds)
        said = texts[: len(beginning)] if name == "minute" else texts
        heard = [" ".join(found["texts"])]
        pairs = (said, found["texts"]) if name == "utterances" else ([" ".join(said)], heard)
        rows[name] = _row(found, length) | {"wer": score(*pairs).wer}
    if silence_seconds:
        path = folder / "silence.flac"
        write_silence(path, silence_seconds, limits.rate_hz)
        found = run_alone([], [str(path)])
        rows["silence"] = _row(found, silence_seconds) | {"is_empty": found["texts"] == [""]}
    return {
        "rows": rows,
        "memory_ratio": rows["whole"]["peak_mib"] / rows["minute"]["peak_mib"],
        "speed_ratio": rows["whole"]["rtfx"] / rows["utterances"]["rtfx"],
    }


def _row(found: dict, length: float) -> dict:
    return {
        "sound_seconds": length,
        "seconds": found["seconds"],
        "rtfx": length / found["seconds"],
        "peak_mib": found["peak_mib"],
    }


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "tools.benchmark.long_recordings",
        "Measures speed, memory and word errors of a long recording of joined utterances, beside "
        "the same utterances one by one.",
        "--model=DIR --data_dir=DIR [FLAGS]",
        example="--model=exports/m --data_dir=LibriSpeech/dev-clean --silence_hours=10",
    )
    flags.group("Model")
    about = "SavedModel or converted model of a speech family."
    flags.string("model", None, about, default_text=REQUIRED)
    flags.group("Input")
    about = "LibriSpeech-layout data set with transcripts."
    flags.string("data_dir", None, about, default_text=REQUIRED)
    flags.number("hours", 1.0, "Length of the recording.")
    flags.number("silence_hours", 0.0, "Length of silence that is recognized, too.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    flags.group("Runtime")
    flags.integer("batch_size", 16, "Sounds or chunks run together.")
    about = "Runs the SavedModel in TensorFlow; by default the model is converted."
    flags.boolean("run_eagerly", False, about)
    add_conversion_flags(flags)
    values, rest = flags.parse(argv)
    if rest or not values.model or not values.data_dir:
        raise UserError.expected(
            "--model DIR --data_dir DIR", " ".join(argv) or "nothing", "See --help"
        )
    if not 0.001 <= values.hours <= 24 or not 0 <= values.silence_hours <= 24:
        raise UserError.expected(
            "--hours of 0.001 to 24 and --silence_hours of 0 to 24",
            f"{values.hours:g} and {values.silence_hours:g}",
            "Correct them",
        )
    if values.json:
        check_writable(Path(values.json))
    options = from_flags(RunnerOptions, values)
    restrict_devices(options.visible_devices)
    # Converts the model, too.
    limits, utterances = in_own_process(_opened, values.model, options, values.data_dir)
    with tempfile.TemporaryDirectory() as temporary:
        report = measure(
            lambda *sounds: in_own_process(recognize, values.model, options, *sounds),
            utterances,
            Path(temporary),
            seconds=3600 * values.hours,
            silence_seconds=3600 * values.silence_hours,
            limits=limits,
        )
    for name, row in report["rows"].items():
        shown = f"WER {row['wer']:.2%}" if "wer" in row else "empty" * row["is_empty"] or "a text"
        print(
            f"{name:10}  {row['sound_seconds']:8.1f} s of sound in {row['seconds']:7.1f} s, "
            f"{row['rtfx']:6.1f} x real time, peak memory {row['peak_mib']:.0f} MiB, {shown}"
        )
    print(f"memory of the whole / of its first minute: {report['memory_ratio']:.2f}")
    print(f"speed of the whole / of its utterances: {report['speed_ratio']:.2f}")
    if values.json:
        report |= {"machine": machine(), "processor": processor(), "model": values.model}
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


def _opened(
    model: str, options: RunnerOptions, data_dir: str
) -> tuple[AudioLimits, list[Utterance]]:
    """Returns the limits of a model, and the utterances of a data set in its form."""
    with open_speech(model, options) as session:
        limits, normalize = session.limits, transcript_form(session.pipeline)
    utterances = read_corpus(data_dir, (), limits, normalize=normalize).utterances
    if not utterances:
        raise UserError.expected(
            f"utterances with transcripts in {data_dir}", "none", "Choose another --data_dir"
        )
    return limits, utterances


if __name__ == "__main__":
    run(main)
