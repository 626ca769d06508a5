"""Times vision Conformers in every runtime and in PyTorch, and compares their logits.

All sides run in turn. The peer is pengzhiliang/Conformer in a separate process. PyTorch's own ONNX
export of it also runs in OpenVINO and ONNX Runtime. Without a checkout of it our sides run alone.
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
from tools.benchmark.sides import Side, answers, open_runners, open_sides, relative_error
from tools.benchmark.turns import time_in_turn, use_cores
from tools.benchmark.vision_models import (
    BATCH,
    NUM_JUDGED,
    NUM_NORM_BATCHES,
    make_models,
    read_images,
)
from tools.benchmark.vision_sides import HEADS, open_peer, our_side, peer_export
from tools.config.command_line import CommandLine, run
from tools.conversion.protocol import Calibration, Examples
from tools.conversion.request import ConversionRequest
from tools.errors import UserError
from tools.files import to_json, write_text
from tools.inference.runner import Runner
from tools.inference.selection import spread
from vision.checkpoint import full_name
from vision.classes import Classes
from vision.config import PreprocessingConfig, load_config
from vision.input_pipeline import read_image_folder
from vision.options import ImageDataOptions
from vision.program import Classification
from vision.session import ImageSession

_BATCHES = "1,8"


def logit_errors(sides: Mapping[str, Side], images: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns the relative errors of the logits against the first side, by side and head.

    Another entry contains the error that noise on the images causes.
    """
    logits = {}
    for name, (heads,) in answers(sides, [images], "images").items():
        logits[name] = dict(zip((*HEADS, "logits"), (*heads, sum(heads)), strict=True))
    first = next(iter(logits.values()))
    return {
        name: {head: relative_error(x, first[head]) for head, x in heads.items()}
        for name, heads in logits.items()
    }


def decode_wait_share(runner: Runner, data_dir: str, count: int) -> dict:
    """Evaluates photographs as `vision.eval` does; returns its speed and the share of waiting."""
    preprocessing = PreprocessingConfig(**runner.pipeline["preprocessing"])
    data = ImageDataOptions(batch_size=BATCH)
    paths = spread(read_image_folder(data_dir).paths, count)
    with ImageSession(runner, preprocessing, Classes(), batch_size=BATCH) as session:
        evaluation = Classification(session, paths, data)
        facts = evaluation.facts(sum(len(indices) for indices, _ in evaluation))
    names = ("decode_wait_share", "end_to_end_samples_per_second", "num_images", "batch_size")
    return {name: facts[name] for name in names}


def fps_table(architecture: str, results: Sequence[Mapping]) -> str:
    """Returns images per second by batch size, in the form of the published tables."""
    names = list(results[0]["sides"])
    title = architecture.replace("conformer", "Conformer").replace("_", "-")
    lines = [f"| model | {' | '.join(names)} |", f"| :---: |{' ---: |' * len(names)}"]
    for result in results:
        cells = (f"{result['sides'][name]['fps']:.4f}fps" for name in names)
        lines.append(f"| {title} bs{result['batch']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def show_errors(architecture: str, errors: Mapping[str, Mapping]) -> None:
    """Prints the errors of the logits against the first side."""
    width, (first, *others) = max(map(len, errors)), errors
    print(f"\n{architecture}, relative logit error in % against {first}")
    print(f"{'':{width}}  convolution  transformer      sum")
    for name in others:
        cells = (100 * x for x in errors[name].values())
        print("{:{}}  {:11.3f}  {:11.3f} {:8.3f}".format(name, width, *cells))


def _flags() -> CommandLine:
    flags = CommandLine(
        "tools.benchmark.vision",
        "Times vision Conformers in every runtime and in PyTorch, in turn.",
        example="--architectures=conformer_tiny --data_dir=ImageNet/val",
    )
    flags.group("Model")
    flags.string("architectures", "conformer_tiny,conformer_base", "Models to time.")
    about = "Weights, if --architectures names one architecture."
    flags.string("checkpoint", None, about, default_text="initial ones, calibrated")
    flags.enum(
        "norm_statistics",
        "running",
        ("running", "mean"),
        "Batch norm statistics of initial weights: running statistics after "
        f"{NUM_NORM_BATCHES} steps of training, or the means over their batches.",
    )
    flags.integer("num_classes", 1000, "Classes of both heads.")
    flags.integer("image_size", 224, "Width and height of the images in pixels.")
    about = "Checkout of pengzhiliang/Conformer, for the PyTorch model."
    flags.string("peer_repo", None, about, default_text="no PyTorch model")
    flags.group("Input")
    flags.integer(
        "eval_images", 128, "Images of --data_dir to evaluate end to end; 0 evaluates none."
    )
    add_flags(
        flags,
        _BATCHES,
        "ImageFolder of photos.",
        "images are made up",
        samples="Images",
        table="Also prints a table of images per second by batch size.",
    )
    return flags


def _parse(argv: list[str]) -> SimpleNamespace:
    lowest = {"calibration_samples": BATCH, "eval_images": 0}
    values = parse(_flags(), argv, _BATCHES, lowest)
    architectures = [full_name(x) for x in values.architectures.split(",")]
    if values.checkpoint and len(architectures) > 1:
        raise UserError.expected(
            "one of --architectures with --checkpoint",
            ",".join(architectures),
            "Name that of the checkpoint",
        )
    return SimpleNamespace(**vars(values) | {"architectures": architectures})


def _measure(architecture: str, values: SimpleNamespace, folder: Path, peer) -> dict:
    """Measures one architecture and returns its part of the report."""
    config = load_config(
        None,
        {
            "model.arch": architecture,
            "model.num_classes": values.num_classes,
            "model.drop_path": 0.0,  # also while batch norm is calibrated
            "preprocessing.image_size": values.image_size,
        },
    )
    count = values.calibration_samples + NUM_JUDGED
    images = read_images(values.data_dir, config.preprocessing, count)
    chosen = spread(range(len(images)), NUM_JUDGED)
    judged, others = images[chosen], np.delete(images, chosen, axis=0)
    kind = values.norm_statistics
    place = folder / f"{architecture}-{Path(values.checkpoint or kind).stem}"
    models = make_models(config, values.checkpoint, others, kind, folder=place)
    calibration = Calibration(
        values.data_dir or "made-up images",
        len(others),
        True,
        lambda: Examples([{"images": image[None]} for image in others]),
    )
    shapes = ConversionRequest(batch=(1, max(*values.batches, BATCH)))
    runners = open_runners(models.native, models.folder, values, shapes, calibration=calibration)
    ours = {name: our_side(runner) for name, runner in runners.items()}
    official = models.arguments, str(models.weights)
    export = peer_export(models, config.preprocessing.image_size)
    sides = open_sides(ours, peer, official, export, names=values.backends)
    errors = logit_errors(sides, judged)
    show_errors(architecture, errors)
    results = []
    for batch in values.batches:
        for side in sides.values():
            side.take(np.resize(judged, (batch, *judged.shape[1:])))
        calls = {name: side.time for name, side in sides.items()}
        times = time_in_turn(
            calls, batch, values.loop, values.warmup_seconds, rest_seconds=REST_SECONDS
        )
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
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = stack.enter_context(open_peer(values.peer_repo, values.threads, scratch))
        report = described(values, peer.ask("versions") if peer else {})
        report["weights"] = values.checkpoint or f"initial, batch norms: {values.norm_statistics}"
        folder = Path(values.work_dir) if values.work_dir else scratch
        report["architectures"] = [
            _measure(name, values, folder, peer) for name in values.architectures
        ]
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
