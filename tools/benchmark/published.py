"""Measures published Conformers of full size with random weights: memory, speed and search steps.

The peers are the encoder of transformers with PyTorch, and sherpa-onnx on our export for it. All
sides run in turn, each in its own process or with its own threads.
"""

import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

# Before any runtime.
from tools.benchmark.turns import batch_sizes, time_in_turn, timed, use_cores  # isort: skip

import numpy as np

from tools.benchmark.comparison import REST_SECONDS
from tools.benchmark.own_process import in_own_process
from tools.benchmark.peer import Peer
from tools.benchmark.published_models import RATE_HZ, SIZES, made_sounds, write_source
from tools.benchmark.sides import PeerSide, relative_error
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.conversion.machine import machine, processor
from tools.decoding.greedy import GreedySearch
from tools.decoding.tdt import TdtSearch
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.inference.runner import Runner, load
from tools.memory import anonymous_bytes, peak_resident_bytes
from tools.recognition.beams import network_options

PRECISIONS = ("fp32", "int8_fp32")
_CALIBRATION_SECONDS = 10.0
_CALLS = 20  # more than the calls after which OpenVINO compiles a shape that occurs often
# Starts a peer. The interpreter of another environment may lack what programs need.
_PEER = "import sys; from tools.benchmark.published_peer import answer; answer(*sys.argv[1:])"


def export(source: str, target: str, file_format: str) -> dict[str, float]:
    """Exports a source, and returns the seconds and the peak memory of this process."""
    from conformer.export import export_source

    started = time.perf_counter()
    export_source(source, target, file_format=file_format)
    return {"seconds": time.perf_counter() - started, "peak_bytes": peak_resident_bytes()}


def convert(native: str, place: str, precision: str, *sizes: int) -> dict[str, float]:
    """Converts a SavedModel, and returns the seconds and the peak memory of this process.

    Args:
        native: the SavedModel.
        place: new folder.
        precision: see `ConversionRequest`.
        *sizes: largest batch, and number of sounds to quantize with.
    """
    from tools.conversion import converter
    from tools.conversion.protocol import Calibration, Examples
    from tools.conversion.request import ConversionRequest, Quantization

    batch, samples = sizes

    def examples() -> Examples:
        sounds = made_sounds(samples, _CALIBRATION_SECONDS)
        length = np.array([sounds.shape[1]], np.int32)
        return Examples([{"waveforms": x[None], "lengths": length} for x in sounds])

    is_quantized = precision.startswith("int8")
    request = ConversionRequest(
        backend="openvino",
        precision=precision,
        batch=(1, batch),
        quantization=Quantization() if is_quantized else None,
    )
    calibration = Calibration("made-up sounds", samples, True, examples)
    started = time.perf_counter()
    converter.convert(native, place, request, calibration if is_quantized else None)
    return {"seconds": time.perf_counter() - started, "peak_bytes": peak_resident_bytes()}


def run_often(place: str, seconds: float, calls: int) -> dict[str, float]:
    """Encodes one sound several times with a converted model, and returns the memory.

    Returns:
        The peak memory of this process, and its memory at the end without pages of files, which the
        system can take back.
    """
    runner, inputs = load(Path(place)), _inputs(made_sounds(1, seconds))
    for _ in range(calls):
        runner.run(inputs, "listen")
    return {"peak_bytes": peak_resident_bytes(), "anonymous_bytes": anonymous_bytes()}


def search_steps(runner: Runner, sound: np.ndarray) -> dict[str, float]:
    """Counts the sequential steps of greedy searches over the same encoded frames.

    The search without durations reads the logits of the symbols alone. Its steps are one for each
    frame and one for each token, as it reads them one after the other.
    """
    pipeline = runner.pipeline
    heard = runner.run(_inputs(sound[None]), "listen")
    durations = pipeline["durations"]
    common = {
        "blank": pipeline["blank"],
        "state_shape": pipeline["state_shape"],
        "max_symbols_per_frame": pipeline["max_symbols_per_frame"],
        **network_options(pipeline),
    }

    def without_durations(inputs: Mapping, signature: str) -> Mapping:
        found = dict(runner.run(inputs, signature))
        if "logits" in found:
            found["logits"] = found["logits"][..., : -len(durations)]
        return found

    tdt = TdtSearch(runner.run, durations=durations, **common)
    rnnt = GreedySearch(without_durations, **common)
    frames = heard["encoded_lengths"]
    state = tdt.advance(tdt.start(1), heard["encoded"], frames)
    (with_durations,) = tdt.finish(state)
    (without,) = rnnt.finish(rnnt.advance(rnnt.start(1), heard["encoded"], frames))
    steps = int(frames[0]) + len(without.tokens)
    return {
        "frames": int(frames[0]),
        "tdt_steps": state.steps,
        "tdt_tokens": len(with_durations.tokens),
        "rnnt_steps": steps,
        "rnnt_tokens": len(without.tokens),
        "ratio": state.steps / steps,
    }


def _inputs(sounds: np.ndarray) -> dict[str, np.ndarray]:
    return {"waveforms": sounds, "lengths": np.full(len(sounds), sounds.shape[1], np.int32)}


@contextlib.contextmanager
def _open_peer(
    kind: str, python: str | None, values: SimpleNamespace, folder: Path
) -> Iterator[PeerSide | None]:
    """Starts a peer with an interpreter; without one it yields None."""
    if python is None:
        yield None
        return
    peer = Peer([python, "-c", _PEER, kind, str(values.threads)])
    try:
        yield PeerSide(peer, folder)
    finally:
        peer.close()


def _time_encoders(
    places: Mapping[str, Path], source: Path, values: SimpleNamespace, scratch: Path
) -> dict:
    """Times `listen` of each precision, and the encoder of transformers on the same features."""
    sound = made_sounds(1, values.seconds)
    runners = {name: load(place) for name, place in places.items()}
    sides = {name: timed(x.run, _inputs(sound), "listen") for name, x in runners.items()}
    with _open_peer("transformers", values.transformers_python, values, scratch) as peer:
        versions = {}
        if peer is not None:
            versions = peer.ask("versions")
            peer.ask("build", str(source))
            bins = SIZES[values.size]["encoder_config"]["num_mel_bins"]
            rng, frames = np.random.default_rng(0), sound.shape[1] // 160
            peer.take(rng.standard_normal((1, frames, bins)).astype(np.float32))
            sides["transformers"] = peer.time
        times = time_in_turn(sides, 1, values.loop, 0.0, rest_seconds=REST_SECONDS)
    found = {"sides": times, "versions": versions}
    if {"fp32", "int8_fp32"} <= runners.keys():
        encoded = [runners[x].run(_inputs(sound), "listen")["encoded"] for x in PRECISIONS]
        found["int8_relative_error"] = relative_error(encoded[1], encoded[0])
    found["steps"] = search_steps(runners["fp32"], sound[0])
    return found


def _time_recognition(
    places: Mapping[str, Path], exported: Path, values: SimpleNamespace, scratch: Path
) -> dict:
    """Times whole recognition of each precision and of sherpa-onnx, by batch size."""
    import conformer

    found: dict[str, dict] = {}
    with _open_peer("sherpa_onnx", sys.executable, values, scratch) as peer:
        found["versions"] = peer.ask("versions")
        peer.ask("build", str(exported))
        for batch in values.batches:
            sounds = made_sounds(batch, values.seconds)
            with contextlib.ExitStack() as stack:
                sessions = {
                    name: stack.enter_context(
                        conformer.load(place, batch_size=batch, threads=values.threads)
                    )
                    for name, place in places.items()
                }
                sides = {
                    name: timed(functools.partial(session.transcribe, [*sounds], rate_hz=RATE_HZ))
                    for name, session in sessions.items()
                }
                peer.take(sounds)
                sides["sherpa-onnx"] = peer.time
                times = time_in_turn(sides, batch, values.loop, 0.0, rest_seconds=REST_SECONDS)
            found[str(batch)] = {"sides": times, "peer_tokens": peer.ask("num_tokens")}
    return found


def measure(values: SimpleNamespace, folder: Path) -> dict:
    """Makes the model and its exports in a folder, and measures everything.

    Args:
        values: values of the flags.
        folder: folder of the model; what is there already is not made and not measured again.
    """
    source = folder / "source"
    in_own_process(write_source, source, values.size)
    weights = (source / "model.safetensors").stat().st_size
    report: dict = {"weight_bytes": weights, "export": {}, "conversion": {}, "run": {}}
    native, exported = folder / "saved_model", folder / "sherpa_onnx"
    for file_format, target in (("savedmodel", native), ("sherpa_onnx", exported)):
        if not target.exists():
            arguments = str(source), str(target), file_format
            report["export"][file_format] = in_own_process(export, *arguments)
    places = {name: folder / name for name in values.precisions}
    for name, place in places.items():
        if not place.exists():
            sizes = max(values.batches), values.calibration_samples
            arguments = str(native), str(place), name, *sizes
            report["conversion"][name] = in_own_process(convert, *arguments)
        memory = in_own_process(run_often, str(place), values.seconds, _CALLS)
        files = sum(x.stat().st_size for x in place.rglob("*") if x.is_file())
        report["run"][name] = {**memory, "file_bytes": files}
    for part in ("export", "conversion", "run"):
        for row in report[part].values():
            row["peak_per_weights"] = row["peak_bytes"] / weights
    with tempfile.TemporaryDirectory() as scratch:
        report["encoder"] = _time_encoders(places, source, values, Path(scratch))
        report["recognition"] = _time_recognition(places, exported, values, Path(scratch))
    return report


def show(report: Mapping) -> None:
    """Prints the measured figures."""
    print(f"weights {report['weight_bytes'] / 2**30:.2f} GiB")
    for part in ("export", "conversion", "run"):
        for name, row in report[part].items():
            peak, share = row["peak_bytes"] / 2**30, row["peak_per_weights"]
            print(f"{part} {name}: peak {peak:.2f} GiB, {share:.2f} x the weights")
    blocks = {"encoder, batch 1": report["encoder"]["sides"]}
    for batch, row in report["recognition"].items():
        if batch != "versions":
            blocks[f"recognition, batch {batch}"] = row["sides"]
    for title, sides in blocks.items():
        for name, row in sides.items():
            print(f"{title}: {name} {row['median_ms']:.0f} ms")
    steps = report["encoder"]["steps"]
    alone = report["recognition"].get("1")
    if alone is not None:
        print(f"tokens: {steps['tdt_tokens']}, with sherpa-onnx {alone['peer_tokens']}")
    print(
        f"sequential steps: {steps['tdt_steps']} with durations, {steps['rnnt_steps']} without "
        f"({steps['ratio']:.2f} x)"
    )


def _flags() -> CommandLine:
    flags = CommandLine(
        "tools.benchmark.published",
        "Measures published Conformers of full size with random weights.",
        "--size=SIZE [FLAGS]",
        example="--size=0.6b --work_dir=scratch --json=published.json",
    )
    flags.group("Model")
    about = "Size of the model in parameters; tiny is for tests."
    flags.enum("size", None, tuple(SIZES), about, default_text=REQUIRED)
    flags.group("Input")
    flags.string("batch_sizes", "1,8", "Batch sizes of whole recognition.")
    flags.number("seconds", 30.0, "Length of each sound.")
    flags.group("Measurement")
    flags.integer("loop", 5, "Rounds, after two calls of each side.")
    about = "Python of an environment with torch and transformers, for the encoder's peer."
    flags.string("transformers_python", None, about, default_text="no such peer")
    flags.group("Runtime")
    flags.integer("threads", 2, "Threads of each side.")
    flags.group("Conversion")
    about = f"Precisions to convert to: fp32, and perhaps others of {', '.join(PRECISIONS)}."
    flags.string("precisions", ",".join(PRECISIONS), about)
    flags.group("Quantization")
    flags.integer("calibration_samples", 4, "Sounds of 10 s to quantize with.")
    flags.group("Output")
    about = "Folder in which the models are kept; those that exist are not made again."
    flags.string("work_dir", None, about, default_text="none is kept")
    flags.string("json", None, "Report to write.", default_text="none")
    return flags


def main(argv: list[str]) -> int:
    """Runs the program."""
    values, rest = _flags().parse(argv)
    if rest or not values.size:
        raise UserError.expected("--size and flags alone", " ".join(argv) or "none", "See --help")
    lists = {"batches": batch_sizes(values.batch_sizes), "precisions": values.precisions.split(",")}
    values = SimpleNamespace(**vars(values) | lists)
    if "fp32" not in values.precisions or set(values.precisions) - set(PRECISIONS):
        raise UserError.expected(
            "--precisions fp32 or fp32,int8_fp32", ",".join(values.precisions), "Correct the flag"
        )
    lowest = {"loop": 1, "calibration_samples": 1, "seconds": 1}
    for flag, low in lowest.items():
        if getattr(values, flag) < low:
            raise UserError.expected(
                f"--{flag} >= {low}", getattr(values, flag), f"Correct --{flag}"
            )
    if values.json:
        check_writable(Path(values.json))
    use_cores(values.threads)
    with contextlib.ExitStack() as stack:
        folder = values.work_dir or stack.enter_context(tempfile.TemporaryDirectory())
        report = measure(values, Path(folder) / values.size)
    facts = {"size": values.size, "threads": values.threads, "seconds": values.seconds}
    report = {**facts, "machine": machine(), "processor": processor(), **report}
    show(report)
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
