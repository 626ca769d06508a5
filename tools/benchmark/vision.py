"""Times vision Conformers in every runtime and beside the PyTorch model, and compares their logits.

All sides run in turn. The peer is pengzhiliang/Conformer in a process of its own, and what OpenVINO
and ONNX Runtime make of PyTorch's own ONNX export of it; without it our sides run alone.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tools.benchmark.turns import batch_sizes, time_in_turn, use_cores
from tools.benchmark.vision_models import (
    BATCH,
    NUM_JUDGED,
    NUM_NORM_BATCHES,
    make_models,
    read_images,
)
from tools.benchmark.vision_sides import (
    EAGER,
    HEADS,
    PEER,
    Side,
    open_peer,
    open_runners,
    open_sides,
    peer_name,
)
from tools.config.command_line import CommandLine, run
from tools.conversion import backends
from tools.conversion.quantization import (
    ALGORITHMS,
    GRANULARITIES,
    TYPES,
    Calibration,
    Examples,
)
from tools.errors import UserError
from tools.files import write_text
from tools.inference.flags import spread
from tools.inference.runner import Runner
from vision.checkpoint import full_name
from vision.classes import Classes
from vision.classifier import Classification, Classifier
from vision.config import PreprocessingConfig, load_config
from vision.input_pipeline import read_image_folder

PRECISIONS = ("fp32", "int8_fp32")
TABLE_BATCH_SIZES = "1,4,8,16,32,64"
_NOISE = 1e-3  # in standard deviations
_REST_SECONDS = 0.02  # in which the threads of the side before stop spinning


def logit_errors(sides: Mapping[str, Side], images: np.ndarray) -> dict[str, dict[str, float]]:
    """Compares logits with those of the first side: norm of the difference over the norm.

    One entry more tells what the weights make of noise on the images, which bounds what any way to
    compute with fewer bits can reach.
    """
    noise = np.random.default_rng(0).standard_normal(images.shape).astype(np.float32)
    noisy = images + _NOISE * np.float32(images.std()) * noise
    logits = {}
    for name, side, given in (
        *((name, side, images) for name, side in sides.items()),
        (f"{EAGER}, {_NOISE:.1%} noise on images", sides[EAGER], noisy),
    ):
        side.take(given)
        heads = side.classify()
        logits[name] = dict(zip((*HEADS, "logits"), (*heads, sum(heads)), strict=True))
    first = next(iter(logits.values()))
    return {
        name: {
            head: float(np.linalg.norm(x - first[head]) / np.linalg.norm(first[head]))
            for head, x in heads.items()
        }
        for name, heads in logits.items()
    }


def add_ratios(times: Mapping[str, dict[str, float]]) -> None:
    """Adds how many times faster a side is than the peer, and than the peer's own export."""
    for name, row in times.items():
        for key, other in (("speedup", PEER), ("against_export", peer_name(name.split()[0]))):
            if other in times and other != name:
                row[key] = times[other]["median_ms"] / row["median_ms"]


def decode_wait_share(runner: Runner, data_dir: str, count: int) -> dict:
    """What `vision.eval` reports of a run over photos: its share of time waiting for images."""
    preprocessing = PreprocessingConfig(**runner.pipeline["preprocessing"])
    values = SimpleNamespace(batch_size=BATCH, warmup_count=1, num_parallel_workers=0, prefetch=0)
    paths = spread(read_image_folder(data_dir).paths, count)
    evaluation = Classification(Classifier(runner, preprocessing, Classes()), paths, values)
    facts = evaluation.facts(sum(len(indices) for indices, _ in evaluation))
    names = ("decode_wait_share", "end_to_end_samples_per_second", "num_images", "batch_size")
    return {name: facts[name] for name in names}


def fps_table(architecture: str, results: Sequence[Mapping]) -> str:
    """Writes images per second by batch size, in the form of the published tables."""
    names = list(results[0]["sides"])
    title = architecture.replace("conformer", "Conformer").replace("_", "-")
    lines = [f"| model | {' | '.join(names)} |", f"| :---: |{' ---: |' * len(names)}"]
    for result in results:
        cells = (f"{result['sides'][name]['fps']:.4f}fps" for name in names)
        lines.append(f"| {title} bs{result['batch']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def show_times(architecture: str, batch: int, times: Mapping[str, Mapping]) -> None:
    """Prints one batch size."""
    width = max(map(len, times))
    print(f"\n{architecture}, batch {batch}")
    print(f"{'':{width}}  median ms    p95 ms     fps   x {PEER}   x PyTorch's ONNX")
    for name, row in times.items():
        ratios = (f"{row[x]:.2f}" if x in row else "-" for x in ("speedup", "against_export"))
        line = "{:>18}{:>19}".format(*ratios)
        print(
            f"{name:{width}}  {row['median_ms']:9.1f} {row['p95_ms']:9.1f} {row['fps']:7.1f}{line}"
        )


def show_errors(architecture: str, errors: Mapping[str, Mapping]) -> None:
    """Prints how far logits are from those of the first side."""
    width, (first, *others) = max(map(len, errors)), errors
    print(f"\n{architecture}, relative logit error in % against {first}")
    print(f"{'':{width}}  convolution  transformer      sum")
    for name in others:
        cells = (100 * x for x in errors[name].values())
        print("{:{}}  {:11.3f}  {:11.3f} {:8.3f}".format(name, width, *cells))


def _flags() -> CommandLine:
    flags = CommandLine(
        "benchmark.vision",
        "Times vision Conformers in every runtime and beside the PyTorch model, in turn.",
    )
    flags.string("architectures", "conformer_tiny,conformer_base", "Models to time.")
    flags.string("checkpoint", None, "Weights of the one.", default_text="initial, calibrated")
    flags.enum(
        "norm_statistics",
        "running",
        ("running", "mean"),
        f"Of initial weights: after {NUM_NORM_BATCHES} steps of training, or as at its end.",
    )
    flags.integer("num_classes", 1000, "Of both heads.")
    flags.integer("image_size", 224, "Side of the images.")
    flags.string(
        "batch_sizes", None, "Batches to time.", default_text=f"1,8; --table: {TABLE_BATCH_SIZES}"
    )
    flags.integer("loop", 20, "Rounds, after a warm-up.")
    flags.number(
        "warmup_seconds", 5.0, "For every side and batch size: what meets a shape often adapts."
    )
    flags.integer("threads", 2, "Of every side.")
    flags.string("backends", "openvino,onnxruntime", "Runtimes to convert for.")
    flags.string("precisions", ",".join(PRECISIONS), "To convert to.")
    flags.string("peer_repo", None, "Checkout of pengzhiliang/Conformer.", default_text="no peer")
    flags.string("data_dir", None, "ImageFolder of photos.", default_text="images are made up")
    flags.integer("calibration_samples", 128, "Images to quantize with.")
    flags.integer("eval_images", 128, "Images of --data_dir to evaluate end to end; 0: none.")
    about = "Of a second quantized side, beside the one with default settings."
    flags.enum("quantize_algo", "linear", ALGORITHMS, about)
    flags.enum("quantize_type", "symm", TYPES, about)
    flags.enum("quantize_granularity", "per_axis", GRANULARITIES, about)
    flags.string("keep_in_float", "", about)
    flags.boolean("table", False, "Prints images per second by batch size as well.")
    flags.string("work_dir", None, "Keeps models there for another run.", default_text="none kept")
    flags.string("json", None, "Report to write.", default_text="")
    return flags


def _parse(argv: list[str]) -> SimpleNamespace:
    values, rest = _flags().parse(argv)
    if rest:
        raise UserError.expected("flags alone", " ".join(rest), "See --help")
    default = TABLE_BATCH_SIZES if values.table else "1,8"
    values.batches = batch_sizes(values.batch_sizes or default)
    values.architectures = [full_name(x) for x in values.architectures.split(",")]
    values.backends = values.backends.split(",")
    for name in values.backends:
        backends.get(name)
    values.precisions = values.precisions.split(",")
    if unknown := set(values.precisions) - set(PRECISIONS):
        raise UserError.expected(
            f"--precisions among {', '.join(PRECISIONS)}", min(unknown), "Correct --precisions"
        )
    for flag, low in (("loop", 1), ("calibration_samples", BATCH), ("eval_images", 0)):
        if getattr(values, flag) < low:
            raise UserError.expected(
                f"--{flag} >= {low}", getattr(values, flag), f"Correct --{flag}"
            )
    if values.checkpoint and len(values.architectures) > 1:
        raise UserError.expected(
            "one of --architectures with --checkpoint",
            ",".join(values.architectures),
            "Name that of the checkpoint",
        )
    return values


def _measure(architecture: str, values: SimpleNamespace, folder: Path, peer) -> dict:
    """One architecture."""
    config = load_config(
        None,
        {
            "model.arch": architecture,
            "model.num_classes": values.num_classes,
            "model.drop_path": 0.0,  # nor dropped while batch norms are calibrated
            "preprocessing.image_size": values.image_size,
        },
    )
    count = values.calibration_samples + NUM_JUDGED
    images = read_images(values.data_dir, config.preprocessing, count)
    chosen = spread(range(len(images)), NUM_JUDGED)
    judged, others = images[chosen], np.delete(images, chosen, axis=0)
    kind = values.norm_statistics
    place = folder / f"{architecture}-{Path(values.checkpoint or kind).stem}"
    models = make_models(config, values.checkpoint, others, kind, place)
    calibration = Calibration(
        values.data_dir or "made-up images",
        len(others),
        True,
        lambda: Examples([{"images": image[None]} for image in others]),
    )
    runners = open_runners(models, values, calibration)
    sides = open_sides(runners, models, peer, values.backends)
    errors = logit_errors(sides, judged)
    show_errors(architecture, errors)
    results = []
    for batch in values.batches:
        for side in sides.values():
            side.take(np.resize(judged, (batch, *judged.shape[1:])))
        calls = {name: side.time for name, side in sides.items()}
        times = time_in_turn(calls, batch, values.loop, values.warmup_seconds, _REST_SECONDS)
        add_ratios(times)
        show_times(architecture, batch, times)
        results.append({"batch": batch, "sides": times})
    found = {"architecture": architecture, "logit_errors": errors, "results": results}
    if values.table:
        print(f"\n{fps_table(architecture, results)}")
    if values.data_dir and values.eval_images:
        found["evaluation"] = {}
        for name, runner in runners.items():
            facts = decode_wait_share(runner, values.data_dir, values.eval_images)
            found["evaluation"][name] = facts
            print(
                f"{architecture}, {name}: evaluation at batch {facts['batch_size']} waits "
                f"{facts['decode_wait_share']:.1%} of the time for decoding, "
                f"{facts['end_to_end_samples_per_second']:.1f} images/s"
            )
    return found


def main(argv: list[str]) -> int:
    """Runs the program."""
    values = _parse(argv)
    use_cores(values.threads)
    names = ("numpy", "tensorflow", "keras", "openvino", "onnxruntime", "nncf", "tf2onnx")
    report = {
        "threads": values.threads,
        "machine": platform.machine(),
        "loop": values.loop,
        "warmup_seconds": values.warmup_seconds,
        "images": values.data_dir or "made up",
        "weights": values.checkpoint or f"initial, batch norms: {values.norm_statistics}",
        "versions": {name: importlib.metadata.version(name) for name in names},
    }
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = stack.enter_context(open_peer(values.peer_repo, values.threads, scratch))
        if peer:
            report["versions"] |= peer.ask("versions")
        shown = ", ".join(f"{name} {x}" for name, x in report["versions"].items())
        print(f"{values.threads} threads, medians of {values.loop} rounds in turn; {shown}")
        folder = Path(values.work_dir) if values.work_dir else scratch
        report["architectures"] = [
            _measure(name, values, folder, peer) for name in values.architectures
        ]
    if values.json:
        write_text(Path(values.json), json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
