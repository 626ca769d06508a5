"""Times models on inputs of many different lengths, in TensorFlow and converted, in turn."""

import importlib.metadata
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.amounts import counted
from tools.benchmark.turns import batch_sizes
from tools.config.command_line import CommandLine, run
from tools.config.making_options import from_flags
from tools.conversion.machine import machine, processor
from tools.conversion.pipeline import describe
from tools.conversion.samples import random_inputs
from tools.errors import UserError
from tools.families import open_session
from tools.files import check_writable, to_json, write_text
from tools.inference.flags import add_conversion_flags
from tools.inference.opening import restrict_devices
from tools.inference.options import RunnerOptions
from tools.inference.session import Session
from tools.speech.audio import AudioLimits, load

SEED = 1
WARM_UP = 30  # batches before the time is measured
EAGER = "eager"
_VERSIONS = ("tensorflow", "openvino", "onnxruntime")


def lengths_of(count: int, low: int, high: int) -> list[int]:
    """Returns different lengths from `low` to `high`, evenly spread, in random order."""
    spread = np.unique(np.linspace(low, high, count).astype(int))
    return np.random.default_rng(SEED).permutation(spread).tolist()


class Inputs:
    """Batches for a model.

    Args:
        session: of the model.
        batch_size: rows.
        longest: samples of the longest sound.
        sound: `[S]` speech that the rows are cut from, each from another place; None: noise.
    """

    def __init__(
        self, session: Session, batch_size: int, longest: int, sound: np.ndarray | None = None
    ):
        self._specs = session.signatures["serving_default"]
        shapes = {
            name: (batch_size, *(x if isinstance(x, int) else longest for x in shape[1:]))
            for name, _, shape in self._specs
        }
        self._arrays = random_inputs(self._specs, shapes, SEED)
        if sound is not None:
            rng = np.random.default_rng(SEED)
            rows = [np.take(sound, _places(sound, longest, rng)) for _ in range(batch_size)]
            self._arrays["waveforms"] = np.asarray(rows, np.float32)

    def batch(self, length: int) -> dict[str, np.ndarray]:
        """Returns a batch of sounds of one length; images have one size, whatever it is."""
        cut = {}
        for name, _, shape in self._specs:
            array = self._arrays[name]
            if len(shape) == 1:
                cut[name] = np.full_like(array, length)
            else:
                cut[name] = array if isinstance(shape[1], int) else array[:, :length]
        return cut


def _places(sound: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the numbers of `count` samples that follow one another, around the end."""
    return (rng.integers(len(sound)) + np.arange(count)) % len(sound)


def time_pass(
    model: str,
    options: RunnerOptions,
    lengths: Sequence[int],
    sound: np.ndarray | None = None,
    *,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, dict]:
    """Opens a model and runs a batch of each length.

    Args:
        model: directory of the model.
        options: options of the runtime.
        lengths: lengths in samples.
        sound: `[S]` speech that the rows are cut from; None uses noise.
        warm_up: number of first batches that are not timed.
        clock: returns the time in seconds.

    Returns:
        Rows per second, and the backend, the seconds of the first batch and the counts of shapes.
    """
    with open_session(model, options) as session:
        inputs = Inputs(session, options.batch_size, max(lengths), sound)
        opened = started = clock()
        for number, length in enumerate(lengths):
            if number == warm_up:
                started = clock()
            session.run(inputs.batch(length))
            if number == 0:
                first = clock() - opened
        seconds = clock() - started
        runner = session.runner
        shapes = runner.shapes.described() if hasattr(runner, "shapes") else None
        said = {"backend": runner.backend, "first_answer_seconds": first, "shapes": shapes}
    return options.batch_size * (len(lengths) - warm_up) / seconds, said


def compare(
    model: str,
    sides: dict[str, RunnerOptions],
    lengths: Sequence[int],
    rounds: int,
    **how: Any,
) -> dict[str, dict]:
    """Times all sides in turn.

    Args:
        model: directory of the model.
        sides: options by the name of the side.
        lengths: lengths in samples.
        rounds: number of rounds, of which the median is returned.
        **how: further arguments of `time_pass`.

    Returns:
        For each side, the median rows per second, its ratio to the eager side, and the facts that
        `time_pass` returns.
    """
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    rows: dict[str, dict] = {}
    for _ in tqdm(range(rounds), model, file=sys.stderr, unit="round"):
        for name, options in sides.items():
            speed, said = time_pass(model, options, lengths, **how)
            speeds[name].append(speed)
            rows[name] = said
    for name, row in rows.items():
        row["rows_per_second"] = float(np.median(speeds[name]))
    for row in rows.values():
        if EAGER in rows:
            row["against_eager"] = row["rows_per_second"] / rows[EAGER]["rows_per_second"]
    return rows


def memory_growth(model: str, options: RunnerOptions, lengths: Sequence[int]) -> dict[str, float]:
    """Returns the memory of a new process after 100 lengths and after all, in MiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory_growth, (model, options, lengths))


def _memory_growth(model: str, options: RunnerOptions, lengths: Sequence[int]) -> dict[str, float]:
    sizes = {}
    with open_session(model, options) as session:
        inputs = Inputs(session, options.batch_size, max(lengths))
        for number, length in enumerate(tqdm(lengths, "memory", file=sys.stderr), 1):
            session.run(inputs.batch(length))
            if number in (100, len(lengths)):
                sizes[f"after_{number}"] = _resident_mib()
    return sizes


def _resident_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.lengths",
        "Times models on inputs of many different lengths, in TensorFlow and converted, in turn.",
        "[FLAGS] MODEL ...",
        example="conformer/pretrained/digits --batch_sizes=1,8 --json=lengths.json",
    )
    flags.group("Input")
    flags.string("batch_sizes", "1,8", "Batch sizes to time.")
    flags.integer("lengths", 200, "Number of different lengths, in random order.")
    flags.number("low_seconds", 1.0, "Shortest sound.")
    flags.number("high_seconds", 10.0, "Longest sound.")
    about = "Recording that the sounds are cut from; its start follows its end."
    flags.string("sound", None, about, default_text="noise")
    flags.group("Measurement")
    about = (
        "Rounds, of which the median is reported. Each round opens the model again and runs all "
        "lengths."
    )
    flags.integer("rounds", 3, about)
    flags.integer("warmup_count", WARM_UP, "Batches of each round that run before the others.")
    about = "Measures the CPU time of the process instead of the time, for a machine in use."
    flags.boolean("cpu_time", False, about)
    about = (
        f"Sides to time, separated by commas: {EAGER}, auto or a backend, with a precision behind "
        "a colon if it differs from --quant_precision."
    )
    flags.string("sides", "eager,openvino,auto", about)
    about = "Also measures the memory after this many lengths; 0: does not."
    flags.integer("memory_lengths", 0, about)
    flags.group("Runtime")
    about = "Threads of the runtimes."
    flags.integer("threads", None, about, default_text="as many as they choose")
    flags.group("Output")
    flags.string("json", None, "Report to write.")
    add_conversion_flags(flags)
    values, models = flags.parse(argv)
    if not models:
        raise UserError.expected("models to time", "none", "Name exported SavedModels")
    batches, names = batch_sizes(values.batch_sizes), values.sides.split(",")
    warm_up = values.warmup_count
    for flag, low in (("warmup_count", 0), ("lengths", warm_up + 1), ("rounds", 1)):
        if getattr(values, flag) < low:
            given = getattr(values, flag)
            raise UserError.expected(f"--{flag} >= {low}", given, f"Correct --{flag}")
    if values.memory_lengths and values.memory_lengths <= 100:
        raise UserError.expected("--memory_lengths above 100", values.memory_lengths, "Correct it")
    if values.json:
        check_writable(Path(values.json))
    restrict_devices(values.visible_devices)
    options = from_flags(RunnerOptions, values)
    report: dict = {
        "machine": machine(),
        "processor": processor(),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
        "rounds": values.rounds,
        "seed": SEED,
        "warmup_count": warm_up,
        "cpu_time": values.cpu_time,
        "models": {},
    }
    for model in models:
        lengths, sound = _lengths_and_sound(model, values)
        found = report["models"][model] = {}
        for batch in batches:
            sides = {name: _side(options, name, batch) for name in names}
            rows = compare(
                model,
                sides,
                lengths[: values.lengths],
                values.rounds,
                sound=sound,
                warm_up=warm_up,
                clock=time.process_time if values.cpu_time else time.perf_counter,
            )
            found[f"batch {batch}"] = rows
            for name, row in rows.items():
                _show(model, batch, name, row)
        if values.memory_lengths:
            for name in names:
                sizes = memory_growth(model, _side(options, name, 1), lengths)
                found.setdefault("memory_mib", {})[name] = sizes
                said = ", ".join(f"{key} {value:.0f} MiB" for key, value in sizes.items())
                print(f"{model}, memory, {name}: {said}")
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


def _lengths_and_sound(model: str, values: SimpleNamespace) -> tuple[list[int], np.ndarray | None]:
    """Returns the lengths for a model, and what the sounds are cut from.

    There are as many lengths as any measurement needs. Images have one size.
    """
    rate_hz, count = describe(model).get("sample_rate_hz"), values.lengths
    count = max(count, values.memory_lengths)
    if rate_hz is None:
        return [1] * count, None
    low, high = (round(x * rate_hz) for x in (values.low_seconds, values.high_seconds))
    if high - low + 1 < count:
        raise UserError.expected(
            f"{count} different lengths up to --high_seconds",
            f"{values.low_seconds:g} to {values.high_seconds:g} s",
            "Correct --low_seconds or --high_seconds",
        )
    sound = load(values.sound, AudioLimits(rate_hz=rate_hz)) if values.sound else None
    return lengths_of(count, low, high), sound


def _side(options: RunnerOptions, name: str, batch_size: int) -> RunnerOptions:
    if name == EAGER:
        return replace(options, run_eagerly=True, quant_precision=None, batch_size=batch_size)
    backend, _, precision = name.partition(":")
    precision = precision or options.quant_precision
    return replace(options, backend=backend, quant_precision=precision, batch_size=batch_size)


def _show(model: str, batch: int, name: str, row: dict) -> None:
    ratio = f", {row['against_eager']:.2f} x eager" if "against_eager" in row else ""
    shapes = row["shapes"]
    counts = ""
    if shapes:
        counts = f", {counted(shapes['prepared'], 'shape')} in {shapes['first_run_seconds']:.1f} s"
    counts += f", first answer after {row['first_answer_seconds']:.2f} s"
    line = f"{name} ({row['backend']}): {row['rows_per_second']:.1f}/s{ratio}{counts}"
    print(f"{model}, batch {batch}, {line}", flush=True)


if __name__ == "__main__":
    run(main)
