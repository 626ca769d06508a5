"""Times wav2vec 2.0 in every runtime and in Transformers, and compares their logits.

All sides run in turn; converted models are made for the exact shape of the batch. The peer is
Wav2Vec2ForCTC in a separate process. PyTorch's own ONNX export of it also runs in OpenVINO and ONNX
Runtime. Without Transformers our sides run alone.
"""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tools.benchmark.comparison import (
    REST_SECONDS,
    add_flags,
    add_ratios,
    described,
    parse,
    show_times,
)
from tools.benchmark.sides import (
    PeerSide,
    Side,
    answers,
    open_runners,
    open_sides,
    relative_error,
)
from tools.benchmark.turns import time_in_turn, timed, use_cores
from tools.benchmark.wav2vec2_models import (
    NUM_JUDGED,
    NUM_SAMPLES,
    Models,
    calibration_of,
    made_sound,
    make_models,
    read_sounds,
)
from tools.benchmark.wav2vec2_sides import feed, open_peer, our_side, peer_export
from tools.config.command_line import CommandLine, run
from tools.conversion.pipeline import read_pipeline
from tools.conversion.protocol import Calibration
from tools.conversion.request import ConversionRequest
from tools.files import to_json, write_text
from tools.inference.runner import Runner
from tools.inference.selection import spread
from wav2vec2.config import ARCHITECTURES

_BATCHES = "1,4"
MIXED_COUNT, MIXED_BATCH, MIXED_SECONDS = 64, 8, (2, 20)
MIXED = ("none", "eager", "jit")


def fixed(batch: int) -> ConversionRequest:
    """Returns the request for a model of one shape."""
    return ConversionRequest(dim_range={"waveforms": ((batch, batch), (NUM_SAMPLES, NUM_SAMPLES))})


def logit_errors(sides: Mapping[str, Side], sounds: np.ndarray, batch: int) -> dict[str, float]:
    """Returns the relative errors of the logits against the first side, by side.

    Another entry contains the error that noise on the sounds causes.

    Args:
        sides: sides for this batch size.
        sounds: sounds `[N, S]` without padding.
        batch: batch size; sounds are repeated to fill the last batch.
    """
    count = -(-len(sounds) // batch)
    filled = np.resize(sounds, (count * batch, sounds.shape[1]))
    found = answers(sides, np.split(filled, count), "sounds")
    logits = {name: np.concatenate(x)[: len(sounds)] for name, x in found.items()}
    first = next(iter(logits.values()))
    return {name: relative_error(x, first) for name, x in logits.items()}


def mixed_batches(waveforms: Sequence[np.ndarray], by_length: bool) -> list[dict]:
    """Returns padded batches of sounds, in file order or sorted by length."""
    order = np.arange(len(waveforms))
    if by_length:
        order = np.argsort([len(x) for x in waveforms], kind="stable")
    batches = []
    for start in range(0, len(order), MIXED_BATCH):
        rows = [waveforms[number] for number in order[start : start + MIXED_BATCH]]
        lengths = np.array([len(x) for x in rows], np.int32)
        padded = np.zeros((len(rows), lengths.max()), np.float32)
        for row, sound in zip(padded, rows, strict=True):
            row[: len(sound)] = sound
        batches.append({"waveforms": padded, "lengths": lengths})
    return batches


def time_mixed(runner: Runner, loop: int, rate_hz: int) -> dict:
    """Times sounds of mixed lengths in masked batches, by length and in file order."""
    rng = np.random.default_rng(0)
    lengths = np.round(rate_hz * rng.uniform(*MIXED_SECONDS, MIXED_COUNT)).astype(int)
    waveforms = [made_sound(rng, length) for length in lengths]
    calls, padding = {}, {}
    for name in ("by length", "file order"):
        batches = mixed_batches(waveforms, name == "by length")
        calls[name] = timed(lambda batches=batches: [runner.run(x) for x in batches])
        padding[name] = 1 - lengths.sum() / sum(x["waveforms"].size for x in batches)
    times = time_in_turn(calls, MIXED_COUNT, loop, 0.0, rest_seconds=REST_SECONDS, warmup_calls=1)
    for name, row in times.items():
        row["padding"] = float(padding[name])
    return times


def speed_table(title: str, results: Sequence[Mapping]) -> str:
    """Returns samples per second by batch size, in the form of the published table."""
    lines = [
        "| model | batch size | fixed shape | dim range | range / fixed |",
        "| :---: | :---: | ---: | ---: | ---: |",
    ]
    for result in results:
        speeds = [result["sides"][name]["fps"] for name in ("fixed shape", "dim range")]
        cells = (f"{speeds[0]:.2f}", f"{speeds[1]:.2f}", f"{speeds[1] / speeds[0]:.2f}")
        lines.append(f"| {title} | {result['batch']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def show_errors(title: str, errors: Mapping[str, float]) -> None:
    """Prints the errors of the logits against the first side."""
    width, (first, *others) = max(map(len, errors)), errors
    print(f"\n{title}, relative logit error in % against {first}")
    for name in others:
        print(f"{name:{width}}  {100 * errors[name]:8.3f}")


def _flags() -> CommandLine:
    flags = CommandLine(
        "tools.benchmark.wav2vec2",
        "Times wav2vec 2.0 in every runtime and in Transformers, in turn.",
        example="--backends=openvino --batch_sizes=1,8 --calibration_samples=32",
    )
    flags.group("Model")
    flags.enum("model", "base", tuple(ARCHITECTURES), "Architecture, with initial weights.")
    about = "Hugging Face folder to time instead."
    flags.string("pytorch_model_dir", None, about, default_text="none")
    flags.group("Measurement")
    flags.enum(
        "mixed",
        "eager",
        MIXED,
        "Also times mixed lengths: in TensorFlow (eager) or converted (jit).",
    )
    flags.integer("mixed_loop", 3, "Rounds of mixed lengths; each runs all sounds.")
    add_flags(
        flags,
        _BATCHES,
        "Corpus or folder of sounds.",
        "sounds are made up",
        samples="Sounds",
        table="Instead prints a table of samples per second by batch size, for the first of "
        "--backends and of --precisions.",
    )
    return flags


def _compare(
    title: str,
    models: Models,
    values: SimpleNamespace,
    judged: np.ndarray,
    *,
    calibration: Calibration,
    peer: PeerSide | None,
    batch: int,
) -> dict:
    """Measures one batch size. Its runtimes are closed at the end, because they use gigabytes."""
    place = models.folder / f"batch_{batch}"
    runners = open_runners(models.native, place, values, fixed(batch), calibration=calibration)
    ours = {name: our_side(runner) for name, runner in runners.items()}
    model = (str(models.hugging_face),)
    sides = open_sides(ours, peer, model, peer_export(models, batch), names=values.backends)
    errors = logit_errors(sides, judged, batch)
    show_errors(f"{title}, batch {batch}", errors)
    for side in sides.values():
        side.take(np.resize(judged, (batch, NUM_SAMPLES)))
    calls = {name: side.time for name, side in sides.items()}
    times = time_in_turn(
        calls, batch, values.loop, values.warmup_seconds, rest_seconds=REST_SECONDS
    )
    add_ratios(times)
    show_times(title, batch, times)
    return {"batch": batch, "logit_errors": errors, "sides": times}


def _open_range(
    models: Models, values: SimpleNamespace, most: int, calibration: Calibration
) -> tuple[str, Runner]:
    """Opens the last of our sides for batches up to `most` and for all lengths of the model."""
    place = models.folder / f"batch_1_to_{most}"
    shapes = ConversionRequest(batch=(1, most))
    return list(
        open_runners(models.native, place, values, shapes, calibration=calibration).items()
    )[-1]


def _tabulate(title: str, models: Models, values: SimpleNamespace, calibration, *, judged) -> dict:
    one = {"backends": values.backends[:1], "precisions": values.precisions[:1]}
    values, results = SimpleNamespace(**vars(values) | one), []
    _, ranged = _open_range(models, values, max(values.batches), calibration)
    for batch in values.batches:
        place = models.folder / f"batch_{batch}"
        runners = open_runners(models.native, place, values, fixed(batch), calibration=calibration)
        name = list(runners)[-1]
        inputs = feed(np.resize(judged, (batch, NUM_SAMPLES)))
        calls = {"fixed shape": runners[name], "dim range": ranged}
        calls = {side: timed(runner.run, inputs) for side, runner in calls.items()}
        times = time_in_turn(
            calls, batch, values.loop, values.warmup_seconds, rest_seconds=REST_SECONDS
        )
        results.append({"batch": batch, "sides": times})
    print(f"\nsamples per second\n{speed_table(f'{title}, {name}', results)}")
    return {"table": results}


def _measure_mixed(
    title: str, models: Models, values: SimpleNamespace, calibration: Calibration
) -> dict:
    backends = values.backends[:1] if values.mixed == "jit" else []
    one = SimpleNamespace(**vars(values) | {"backends": backends, "precisions": ["fp32"]})
    name, runner = _open_range(models, one, MIXED_BATCH, calibration)
    rate_hz = runner.pipeline["sample_rate_hz"]
    times = time_mixed(runner, values.mixed_loop, rate_hz)
    gain = times["file order"]["median_ms"] / times["by length"]["median_ms"]
    low, high = MIXED_SECONDS
    print(f"\n{title}, {name}: {MIXED_COUNT} sounds of {low} to {high} s, batches of {MIXED_BATCH}")
    for order, row in times.items():
        print(f"{order:10}  {row['median_ms']:9.1f} ms, {row['padding']:.1%} padding")
    print(f"batches by length are {gain:.2f} x as fast as file order")
    return {"runner": name, "times": times, "gain": gain}


def main(argv: list[str]) -> int:
    """Runs the program."""
    lowest = {"calibration_samples": 1, "mixed_loop": 1}
    values = parse(_flags(), argv, _BATCHES, lowest)
    use_cores(values.threads)
    title = Path(values.pytorch_model_dir).name if values.pytorch_model_dir else values.model
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = None
        if not values.table:
            peer = stack.enter_context(open_peer(values.threads, scratch))
        report = described(values, peer.ask("versions") if peer else {})
        report |= {"model": title, "weights": values.pytorch_model_dir or "initial"}
        folder = Path(values.work_dir) if values.work_dir else scratch
        models = make_models(values.model, values.pytorch_model_dir, folder / title)
        pipeline = read_pipeline(models.native)
        count = values.calibration_samples + NUM_JUDGED
        sounds = read_sounds(values.data_dir, pipeline, count)
        chosen = spread(range(len(sounds)), NUM_JUDGED)
        judged, others = sounds[chosen], np.delete(sounds, chosen, axis=0)
        calibration = calibration_of(others, values.data_dir)
        if values.table:
            report |= _tabulate(title, models, values, calibration, judged=judged)
        else:
            report["results"] = [
                _compare(title, models, values, judged, calibration=calibration, peer=peer, batch=x)
                for x in values.batches
            ]
            if values.mixed != "none":
                report["mixed"] = _measure_mixed(title, models, values, calibration)
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
