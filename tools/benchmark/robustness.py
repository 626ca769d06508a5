"""Measures word errors with added silence, noise, offset, gain or repetition.

The seed is fixed, so that all models are measured on the same sounds. Signal-to-noise ratios refer
to the RMS of the frames that are at most 30 dB below the loudest frame.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from conformer import session as conformer
from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.families import open_session
from tools.files import check_writable, to_json, write_text
from tools.inference.flags import add_conversion_flags
from tools.inference.opening import restrict_devices
from tools.inference.options import RunnerOptions
from tools.inference.report import runner_facts
from tools.recognition.session import SpeechSession
from tools.speech.audio import read
from tools.speech.corpus import read_corpus
from tools.speech.scoring import score
from tools.speech.transcripts import normalization

SEED = 5
_FRAME_SECONDS = 0.025
_SPEECH_RANGE_DB = 30.0
_HUM_HZ = 50.0
_HUM_OVERTONES = 5
_NUM_NOISES = 20
_REPEATS = 5
# Rows of the table: seconds of silence between repetitions.
REPETITIONS = {"one word five times": 0.0, "one word five times, with gaps of 300 ms": 0.3}

Generator = np.random.Generator
Change = Callable[[np.ndarray, int, Generator], np.ndarray]


def white(num_samples: int, rate_hz: int, rng: Generator) -> np.ndarray:
    """Returns white noise `[S]` with RMS 1."""
    return _unit(rng.normal(size=num_samples))


def pink(num_samples: int, rate_hz: int, rng: Generator) -> np.ndarray:
    """Returns pink noise `[S]` with RMS 1: its power falls by 3 dB per octave above 20 Hz."""
    spectrum = np.fft.rfft(rng.normal(size=num_samples))
    hz = np.fft.rfftfreq(num_samples, 1 / rate_hz)
    return _unit(np.fft.irfft(spectrum / np.sqrt(np.maximum(hz, 20.0)), num_samples))


def hum(num_samples: int, rate_hz: int, rng: Generator) -> np.ndarray:
    """Returns a hum `[S]` with RMS 1: 50 Hz and weaker overtones, with random phases."""
    cycles = _HUM_HZ * np.arange(num_samples) / rate_hz
    phases = rng.uniform(size=_HUM_OVERTONES)
    tones = [
        np.sin(2 * np.pi * (number * cycles + phase)) / number
        for number, phase in enumerate(phases, 1)
    ]
    return _unit(np.sum(tones, axis=0))


NOISES = {"white": white, "pink": pink, "hum": hum}


def _unit(noise: np.ndarray) -> np.ndarray:
    return (noise / np.sqrt(np.mean(np.square(noise)))).astype(np.float32)


def speech_rms(waveform: np.ndarray, rate_hz: int) -> float:
    """Returns the RMS of the frames of a waveform `[S]` at most 30 dB below its loudest frame."""
    size = round(_FRAME_SECONDS * rate_hz)
    frames = np.pad(waveform, (0, -len(waveform) % size)).reshape(-1, size).astype(np.float64)
    power = np.square(frames).mean(axis=1)
    loud = power[power >= power.max(initial=0.0) * 10 ** (-_SPEECH_RANGE_DB / 10)]
    return float(np.sqrt(loud.mean())) if len(loud) else 0.0


def with_zeros(before_seconds: float, behind_seconds: float) -> Change:
    """Returns the change that adds zeros before and after a sound."""

    def change(waveform, rate_hz, rng):
        return np.pad(waveform, (round(before_seconds * rate_hz), round(behind_seconds * rate_hz)))

    return change


def with_noise(kind: str, snr_db: float) -> Change:
    """Returns the change that adds a kind of noise at a signal-to-noise ratio."""

    def change(waveform, rate_hz, rng):
        level = speech_rms(waveform, rate_hz) * 10 ** (-snr_db / 20)
        return waveform + level * NOISES[kind](len(waveform), rate_hz, rng)

    return change


def _quiet_room(waveform, rate_hz, rng):
    padded = with_zeros(2.0, 3.0)(waveform, rate_hz, rng)
    return padded + 1e-3 * white(len(padded), rate_hz, rng)


def _gain(gain_db: float) -> Change:
    return lambda waveform, rate_hz, rng: np.clip(waveform * 10 ** (gain_db / 20), -1.0, 1.0)


# Rows of the table: the changes of each, whose errors are averaged.
CHANGES: dict[str, tuple[Change, ...]] = {
    "none": (lambda waveform, rate_hz, rng: waveform,),
    "4 s of zeros behind": (with_zeros(0.0, 4.0),),
    "1.5 s of zeros before, 2.5 s behind": (with_zeros(1.5, 2.5),),
    "20 s of zeros before": (with_zeros(20.0, 0.0),),
    "quiet room: 2 s before, 3 s behind, noise at -60 dB": (_quiet_room,),
    "offset of 0.04": (lambda waveform, rate_hz, rng: waveform + np.float32(0.04),),
    "-30 dB": (_gain(-30.0),),
    "+20 dB, clipped": (_gain(20.0),),
    "noise at 20 dB": tuple(with_noise(kind, 20.0) for kind in NOISES),
    "noise at 10 dB": tuple(with_noise(kind, 10.0) for kind in NOISES),
}


def empty_sounds(rate_hz: int) -> dict[str, list[np.ndarray]]:
    """Returns sounds without speech, by the names of their rows."""

    def noises(*kinds: str) -> list[np.ndarray]:
        made = []
        for number in range(_NUM_NOISES):
            rng = np.random.default_rng([SEED, number])
            num_samples = round(rng.uniform(1.0, 10.0) * rate_hz)
            level = 10 ** (rng.uniform(-60.0, -10.0) / 20)
            kind = kinds[number % len(kinds)]
            made.append((level * NOISES[kind](num_samples, rate_hz, rng)).astype(np.float32))
        return made

    click = np.zeros(3 * rate_hz, np.float32)
    click[len(click) // 2] = 0.5
    return {
        "white and pink noise alone": noises("white", "pink"),
        "hum alone": noises("hum"),
        "silence": [np.zeros(3 * rate_hz, np.float32)],
        "a click": [click],
    }


def repeated(waveform: np.ndarray, rate_hz: int, gap_seconds: float) -> np.ndarray:
    """Joins five copies of a waveform `[S]`, with zeros between them."""
    gap = np.zeros(round(gap_seconds * rate_hz), np.float32)
    return np.concatenate([waveform, *[gap, waveform] * (_REPEATS - 1)])


def measure(
    session: SpeechSession, waveforms: Sequence[np.ndarray], texts: Sequence[str]
) -> dict[str, dict]:
    """Recognizes every row of the table.

    Args:
        session: opened recognizer.
        waveforms: `[S]` each, at its rate.
        texts: their transcripts, in the form that the model writes.

    Returns:
        A dictionary by row, with error counts and rates as in `tools.speech.scoring.Score`, and the
        recognized texts. For sounds without speech it contains `num_not_empty` and `num_sounds`
        instead. If the sounds of a row are too long for the model, it contains only a `reason`.
    """
    rate_hz = session.limits.rate_hz
    rows: dict[str, tuple[list[np.ndarray], list[str]]] = {}
    for number, (name, changes) in enumerate(CHANGES.items()):
        changed = [
            change(waveform, rate_hz, np.random.default_rng([SEED, number, kind, index]))
            for kind, change in enumerate(changes)
            for index, waveform in enumerate(waveforms)
        ]
        rows[name] = changed, [*texts] * len(changes)
    single = [index for index, text in enumerate(texts) if len(text.split()) == 1]
    for name, gap in REPETITIONS.items():
        sounds = [repeated(waveforms[index], rate_hz, gap) for index in single]
        rows[name] = sounds, [" ".join([texts[index]] * _REPEATS) for index in single]
    for name, sounds in empty_sounds(rate_hz).items():
        rows[name] = sounds, [""] * len(sounds)
    bar = tqdm(rows.items(), "robustness", unit="row", file=sys.stderr)
    return {name: _row(session, sounds, said) for name, (sounds, said) in bar}


def _row(session: SpeechSession, sounds: Sequence[np.ndarray], texts: Sequence[str]) -> dict:
    if not sounds:
        return {"reason": "the data set has no utterance of one word"}
    limits = session.limits
    longest = max(map(len, sounds)) / limits.rate_hz
    if longest > limits.max_seconds:
        return {"reason": f"{longest:.1f} s, and the model takes {limits.max_seconds:g} s"}
    heard = session.transcribe([x.astype(np.float32) for x in sounds], rate_hz=limits.rate_hz)
    found = [one.text for one in heard]
    if not any(texts):
        return {"num_not_empty": sum(map(bool, found)), "num_sounds": len(found), "texts": found}
    return {**asdict(score(texts, found)), "num_sounds": len(found), "texts": found}


def describe(row: dict) -> str:
    """Returns the text of a row of the table."""
    if "reason" in row:
        return f"not measured: {row['reason']}"
    if "num_not_empty" in row:
        return f"{row['num_not_empty']} of {row['num_sounds']} texts are not empty"
    errors = ("substitution", "deletion", "insertion")
    counts = (counted(row[f"{name}s"], name) for name in errors)
    return f"WER {row['wer']:.2%} of {counted(row['num_words'], 'word')} ({', '.join(counts)})"


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.robustness",
        "Measures the word errors of a recognizer on a data set, and on the same sounds with "
        "silence, noise, an offset, gain or repetition.",
        "--model=DIR --data_dir=DIR [FLAGS]",
        example="--model=exports/m --data_dir=LibriSpeech/dev-clean",
    )
    flags.group("Model")
    about = "SavedModel or converted model of a speech family."
    flags.string("model", None, about, default_text=REQUIRED)
    flags.group("Input")
    about = "LibriSpeech-layout data set with transcripts."
    flags.string("data_dir", None, about, default_text=REQUIRED)
    flags.group("Output")
    flags.string("json", None, "Report to write.")
    flags.group("Runtime")
    flags.integer("batch_size", 16, "Sounds run together.")
    about = "Runs the SavedModel in TensorFlow; by default the model is converted."
    flags.boolean("run_eagerly", False, about)
    flags.group("Measurement")
    about = "Also counts the texts that differ between the converted model and TensorFlow."
    flags.boolean("compare_eager", False, about)
    add_conversion_flags(flags)
    values, rest = flags.parse(argv)
    if rest or not values.model or not values.data_dir:
        raise UserError.expected(
            "--model DIR --data_dir DIR", " ".join(argv) or "nothing", "See --help"
        )
    if values.json:
        check_writable(Path(values.json))
    options = from_flags(RunnerOptions, values)
    restrict_devices(options.visible_devices)
    with open_speech(values.model, options) as session:
        waveforms, texts = read_speech(session, values.data_dir)
        report = {"model": values.model, "seed": SEED, **runner_facts(session.runner)}
        report["rows"] = measure(session, waveforms, texts)
    if values.compare_eager:
        with open_speech(values.model, replace(options, run_eagerly=True)) as session:
            for name, row in measure(session, waveforms, texts).items():
                pairs = zip(
                    row.get("texts", ()), report["rows"][name].get("texts", ()), strict=True
                )
                report["rows"][name]["num_differing_texts"] = sum(a != b for a, b in pairs)
    for name, row in report["rows"].items():
        differing = row.get("num_differing_texts")
        more = "" if differing is None else f"; {differing} texts differ from TensorFlow's"
        print(f"{name}: {describe(row)}{more}")
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


def open_speech(model_dir: str, options: RunnerOptions) -> SpeechSession:
    """Opens a speech recognizer.

    Raises:
        UserError: the model does not recognize speech.
    """
    session = open_session(model_dir, options)
    if isinstance(session, SpeechSession):
        return session
    session.close()
    raise UserError.expected("a --model that recognizes speech", model_dir, "Choose another")


def transcript_form(pipeline: Mapping) -> Callable[[str], str]:
    """Returns the function that normalizes transcripts for a model.

    Args:
        pipeline: content of the model's `pipeline.json`.
    """
    if pipeline.get("family") == conformer.FAMILY:
        return conformer.transcript_normalization(pipeline)
    return normalization(pipeline["vocabulary"]["surfaces"])


def read_speech(session: SpeechSession, data_dir: str) -> tuple[list[np.ndarray], list[str]]:
    """Returns the waveforms `[S]` of a data set, and their transcripts in the form of the model.

    Raises:
        UserError: the data set has no usable utterance with a transcript.
    """
    limits, normalize = session.limits, transcript_form(session.pipeline)
    utterances = read_corpus(data_dir, (), limits, normalize=normalize).utterances
    if not utterances:
        raise UserError.expected(
            f"utterances with transcripts in {data_dir}", "none", "Choose another --data_dir"
        )
    return [read(x.path, limits) for x in utterances], [x.transcript for x in utterances]


if __name__ == "__main__":
    run(main)
