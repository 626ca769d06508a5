"""Times vision Conformers in every runtime and beside the PyTorch model, and compares their logits.

All sides run in turn. The peer is pengzhiliang/Conformer in a process of its own, and what OpenVINO
and ONNX Runtime make of PyTorch's own ONNX export of it; without it our sides run alone.
"""

import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Threads of one runtime that wait by spinning would slow the other ones.
os.environ.setdefault("KMP_BLOCKTIME", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tools.config.command_line import CommandLine, run
from tools.conversion import backends
from tools.conversion.converter import convert
from tools.conversion.quantization import (
    ALGORITHMS,
    GRANULARITIES,
    TYPES,
    Calibration,
    Examples,
    Quantization,
)
from tools.conversion.request import ConversionRequest
from tools.errors import UserError
from tools.files import new_folder, write_text
from tools.inference.flags import spread
from tools.inference.runner import Runner, load
from vision.checkpoint import full_name, initial_model, load_model
from vision.classes import Classes
from vision.classifier import Classification, Classifier, feed
from vision.config import PreprocessingConfig, load_config
from vision.convolution import BATCH_NORM_MOMENTUM
from vision.export import export_saved_model
from vision.infer import examples
from vision.input_pipeline import read_image_folder
from vision.model import CHANNELS, VisionConformer
from vision.weights import save_pytorch_weights

HEADS = ("convolution_logits", "transformer_logits")
PEER = "pytorch eager"
EAGER = "tensorflow eager"
PRECISIONS = ("fp32", "int8_fp32")
TABLE_BATCH_SIZES = "1,4,8,16,32,64"
_BATCH = 16  # for all that is not timed, and for the evaluation
_NUM_JUDGED = 16  # images whose logits are compared
_NUM_NORM_BATCHES = 4
_NOISE = 1e-3  # in standard deviations
_REST_SECONDS = 0.02  # in which the threads of the side before stop spinning
_PEER_INPUT = "input"
_SCALES = (4, 16, 64)  # cells of made-up images on a side


class Side(Protocol):
    """Something that classifies."""

    def take(self, images: np.ndarray) -> None:
        """Keeps `[B, H, W, 3]` for the calls that follow."""

    def time(self) -> float:
        """Gives the seconds of one forward pass."""

    def classify(self) -> np.ndarray:
        """Gives the logits of both heads, `[2, B, V]`."""


class LocalSide:
    """A runtime in this process.

    Args:
        run: maps inputs to outputs by name.
        pipeline: names and layout of the input; see `vision.classifier.feed`.
    """

    def __init__(self, run: Callable[[Mapping], Mapping], pipeline: dict):
        self._run, self._pipeline = run, pipeline

    def take(self, images):
        """See `Side`."""
        self._inputs = feed(self._pipeline, images)

    def time(self):
        """See `Side`."""
        started = time.perf_counter()
        self._run(self._inputs)
        return time.perf_counter() - started

    def classify(self):
        """See `Side`."""
        outputs = self._run(self._inputs)
        return np.stack([outputs[name] for name in HEADS])


class PeerSide:
    """The PyTorch model behind a pipe, which answers a line of JSON with a line of JSON.

    Args:
        command: of a process that answers like `tools.benchmark.vision_peer`.
        folder: for the arrays.
    """

    def __init__(self, command: Sequence[str], folder: Path):
        self._images, self._logits = (str(folder / f"{x}.npy") for x in ("images", "logits"))
        # In a process of its own threads may spin between operators: without, PyTorch takes 40 %
        # longer (Conformer-tiny, batch 1). They are asleep before the next side's turn.
        quiet = ("KMP_BLOCKTIME", "OMP_WAIT_POLICY")
        environment = {name: x for name, x in os.environ.items() if name not in quiet}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )

    def ask(self, method: str, *arguments):
        """Calls a method of the peer.

        Raises:
            UserError: the process has ended; it has said why.
        """
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
            line = self._process.stdout.readline()
        if not line:
            raise UserError.expected(
                f"a peer that can {method}",
                f"one that ended with code {self._process.wait()}",
                "Correct --peer_repo, or leave it out",
            )
        return json.loads(line)[0]

    def take(self, images):
        """See `Side`."""
        np.save(self._images, images)
        self.ask("take", self._images)

    def time(self):
        """See `Side`; measured inside the peer."""
        return self.ask("time")

    def classify(self):
        """See `Side`."""
        self.ask("classify", self._logits)
        return np.load(self._logits)

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextlib.contextmanager
def open_peer(checkout: str | None, threads: int, folder: Path) -> Iterator[PeerSide | None]:
    """Starts the peer; gives None, and says so, where there is none to start."""
    absent = None
    if not checkout:
        absent = "no --peer_repo"
    elif importlib.util.find_spec("torch") is None:
        absent = "no torch (`bash run_scripts/setup.sh --peers` installs it)"
    if absent:
        print(f"{absent}: our side runs alone", file=sys.stderr)
        yield None
        return
    command = [sys.executable, "-m", "tools.benchmark.vision_peer"]
    peer = PeerSide([*command, f"--peer_repo={checkout}", f"--threads={threads}"], folder)
    try:
        yield peer
    finally:
        peer.close()


def use_cores(count: int) -> None:
    """Restricts the threads that runtimes make from now on, here and in processes started here.

    Raises:
        UserError: there are fewer cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cores):
        raise UserError.expected(
            f"--threads from 1 to {len(cores)}, the cores here", count, "Correct --threads"
        )
    if count < len(cores):
        os.sched_setaffinity(0, cores[:count])


def made_images(count: int, size: int) -> np.ndarray:
    """Makes normalized images of cells of several sizes, smooth like photos: `[B, H, W, 3]`."""
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((count, x, x, CHANNELS)) for x in _SCALES]
    images = sum(tf.image.resize(x, (size, size), "bicubic").numpy() for x in layers)
    return (images / images.std()).astype(np.float32)


def read_images(data_dir: str | None, preprocessing: PreprocessingConfig, count: int) -> np.ndarray:
    """Reads images spread over a data set, `[B, H, W, 3]`; made-up ones where there is none."""
    if data_dir is None:
        return made_images(count, preprocessing.image_size)
    described = {"preprocessing": asdict(preprocessing), "layout": "NHWC", "input": "images"}
    found = examples(described, Path(data_dir), count, judged=False)
    images = np.concatenate([batch["images"] for batch in found.batches])
    if len(images) <= _NUM_JUDGED:
        raise UserError.expected(
            f"more than {_NUM_JUDGED} images in {data_dir}", len(images), "Choose other data"
        )
    return images


def calibrate_batch_norm(
    model: VisionConformer, batches: Sequence[np.ndarray], kind: str = "running"
) -> None:
    """Gives batch norms statistics of images; without, one head drowns the other one.

    Args:
        model: with initial weights.
        batches: of images.
        kind: `running`: what as many steps of training leave, a third of the way from the initial
            ones after four; `mean`: the means over the batches, as at the end of a training. With
            those an untrained model is chaotic: each layer enlarges the error of the one before.
    """
    if kind == "running":
        for images in batches:
            model(images, training=True)
        return
    moving = [x for x in model.weights if "/moving_" in x.path]
    sums = [np.zeros(x.shape, np.float32) for x in moving]
    for images in batches:
        for variable in moving:
            variable.assign(np.zeros(variable.shape))
        model(images, training=True)
        for total, variable in zip(sums, moving, strict=True):
            total += variable.numpy() / ((1 - BATCH_NORM_MOMENTUM) * len(batches))
    for total, variable in zip(sums, moving, strict=True):
        variable.assign(total)


@dataclass(frozen=True, slots=True)
class Models:
    """One architecture in a folder: official weights and the SavedModel."""

    folder: Path

    @property
    def weights(self) -> Path:
        """In the official naming."""
        return self.folder / "weights.safetensors"

    @property
    def native(self) -> Path:
        """With both heads as outputs."""
        return self.folder / "saved_model"

    @property
    def arguments(self) -> dict:
        """What makes the official class the same model."""
        return json.loads((self.folder / "arguments.json").read_text())


def make_models(
    config, checkpoint: str | None, images: np.ndarray, kind: str, folder: Path
) -> Models:
    """Exports a model, unless the folder is there already.

    Args:
        config: of the model.
        checkpoint: its weights; None takes initial ones and calibrates their batch norms.
        images: to calibrate with.
        kind: see `calibrate_batch_norm`.
        folder: to write into.
    """
    models = Models(folder)
    if folder.exists():
        return models
    if checkpoint:
        model = load_model(config.model, checkpoint)
    else:
        model = initial_model(config.model, seed=0)
        some = spread(images, _BATCH * _NUM_NORM_BATCHES)
        calibrate_batch_norm(model, np.array_split(np.stack(some), _NUM_NORM_BATCHES), kind)
    arguments = {
        "patch_size": model.patch_size,
        "channel_ratio": model.channel_ratio,
        "embed_dim": model.hidden_dim,
        "depth": model.num_layers,
        "num_heads": model.num_heads,
        "mlp_ratio": model.feedforward_multiplier,
        "num_classes": model.num_classes,
        "qkv_bias": True,
    }
    with new_folder(folder) as beside:
        new = Models(beside)
        (beside / "arguments.json").write_text(json.dumps(arguments))
        save_pytorch_weights(model, new.weights)
        export_saved_model(model, config, new.native, outputs="heads")
    return models


def describe(quantization: Quantization) -> str:
    """Writes settings in few words."""
    words = [quantization.algo, quantization.type, quantization.granularity]
    return " ".join((*words, *(f"-{x}" for x in quantization.keep_in_float)))


def open_runners(models: Models, values: SimpleNamespace, calibration) -> dict[str, Runner]:
    """Opens our sides, converting what was not converted before."""
    asked = Quantization(
        values.quantize_algo,
        values.quantize_type,
        values.quantize_granularity,
        tuple(filter(None, values.keep_in_float.split(","))),
    )
    kinds = [("fp32", None), *(("int8_fp32", x) for x in dict.fromkeys((Quantization(), asked)))]
    places = {EAGER: models.native}
    for backend in values.backends:
        for precision, quantization in kinds:
            if precision not in values.precisions:
                continue
            name = f"{backend} {precision}"
            name += f" {describe(quantization)}" if quantization else ""
            request = ConversionRequest(
                backend, precision, (1, max(*values.batches, _BATCH)), quantization=quantization
            )
            place = models.folder / name.replace("/", "_").replace(" ", "-")
            places[name] = Path(convert(models.native, place, request, calibration)["directory"])
            gc.collect()  # a conversion leaves gigabytes in cycles
    return {name: load(place) for name, place in places.items()}


def open_sides(
    runners: Mapping[str, Runner], models: Models, peer: PeerSide | None, names: Sequence[str]
) -> dict[str, Side]:
    """Puts the peer's sides beside ours.

    Args:
        runners: ours.
        models: whose weights the peer takes.
        peer: None where there is none.
        names: of backends, for the peer's own ONNX export.
    """
    sides: dict[str, Side] = {x: LocalSide(y.run, y.pipeline) for x, y in runners.items()}
    if peer is None:
        return sides
    peer.ask("build", models.arguments, str(models.weights))
    path = models.folder / "peer.onnx"
    if not path.exists():
        size = next(iter(runners.values())).pipeline["preprocessing"]["image_size"]
        peer.take(np.zeros((1, size, size, CHANNELS), np.float32))
        peer.ask("export", str(path), _PEER_INPUT, HEADS)
    pipeline = {"layout": "NCHW", "input": _PEER_INPUT}
    for name in names:
        function = backends.get(name).open(path, {"small": False})
        sides[peer_name(name)] = LocalSide(function, pipeline)
    return {PEER: peer, **sides}


def peer_name(backend: str) -> str:
    """What a side is called that runs PyTorch's own export."""
    return f"{backend} fp32 on PyTorch's ONNX"


def time_in_turn(
    sides: Mapping[str, Side], images: np.ndarray, loop: int, warmup_seconds: float
) -> dict[str, dict[str, float]]:
    """Runs every side once per round and gives milliseconds per batch and images per second."""
    for side in sides.values():  # at least twice: the first call of a shape prepares for it
        side.take(images)
        started, calls = time.perf_counter(), 0
        while calls < 2 or time.perf_counter() - started < warmup_seconds:
            calls += 1
            side.time()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in tqdm(range(loop), desc=f"batch {len(images)}", file=sys.stderr):
        for name, side in sides.items():
            time.sleep(_REST_SECONDS)
            seconds[name].append(side.time())
    return {
        name: {
            "median_ms": 1e3 * float(np.median(values)),
            "p95_ms": 1e3 * float(np.percentile(values, 95)),
            "fps": len(images) / float(np.median(values)),
        }
        for name, values in seconds.items()
    }


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
    values = SimpleNamespace(batch_size=_BATCH, warmup_count=1, num_parallel_workers=0, prefetch=0)
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


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise UserError.expected("--batch_sizes like 1,8", text, "Correct --batch_sizes")
    return numbers


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
        f"Of initial weights: after {_NUM_NORM_BATCHES} steps of training, or as at its end.",
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
    values.batches = _numbers(values.batch_sizes or default)
    values.architectures = [full_name(x) for x in values.architectures.split(",")]
    values.backends = values.backends.split(",")
    for name in values.backends:
        backends.get(name)
    values.precisions = values.precisions.split(",")
    if unknown := set(values.precisions) - set(PRECISIONS):
        raise UserError.expected(
            f"--precisions among {', '.join(PRECISIONS)}", min(unknown), "Correct --precisions"
        )
    for flag, low in (("loop", 1), ("calibration_samples", _BATCH), ("eval_images", 0)):
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
    count = values.calibration_samples + _NUM_JUDGED
    images = read_images(values.data_dir, config.preprocessing, count)
    chosen = spread(range(len(images)), _NUM_JUDGED)
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
        timed = np.resize(judged, (batch, *judged.shape[1:]))
        times = time_in_turn(sides, timed, values.loop, values.warmup_seconds)
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
