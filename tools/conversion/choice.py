"""Chooses the faster runtime for a model by measuring both once on this machine."""

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from tools.conversion import backends
from tools.conversion.artifact import Artifact, open_artifact
from tools.conversion.converter import LoadedModel, convert, decision_path, say_converted
from tools.conversion.machine import processor
from tools.conversion.protocol import LENGTHS, Execution, Function, TensorSpec
from tools.conversion.request import ConversionRequest
from tools.errors import UserError
from tools.files import one_line, to_json, write_text

CANDIDATES = ("openvino", "onnxruntime")  # the first one is kept unless another is clearly faster
_MARGIN = 0.95  # of the first one's time that another has to stay below
_BUDGET_SECONDS = 8.0
_SHARES = (16, 8, 4)  # of the longest input: these parts of it are run
_TIMED_RUNS = 3


def choose_backend(
    native_dir: str | Path, request: ConversionRequest, batch_size: int, execution: Execution
) -> str:
    """Returns the runtime that is the faster one for a model on this machine.

    Measures OpenVINO against ONNX Runtime in at most about 10 s, besides the conversions, keeps the
    decision in the cache beside the conversions, and prints it. A quantized model uses the first
    runtime that is installed, because a second calibration would take longer than it could save.
    XLA, which may compile for minutes, is never chosen while another runtime is installed.

    Args:
        native_dir: a SavedModel.
        request: the conversion; its backend is ignored.
        batch_size: rows of a batch.
        execution: how the model will run.
    """
    default = backends.choose("auto")
    names = [name for name in CANDIDATES if backends.is_installed(name)]
    able = [name for name in names if request.precision in backends.get(name).precisions()]
    if request.quantized or default != CANDIDATES[0] or len(able) < 2:
        return default
    path = decision_path(native_dir)
    key = _key(request, batch_size, execution)
    decisions = _read(path)
    if key in decisions:
        return decisions[key]["backend"]
    milliseconds = _measured(native_dir, request, able, batch_size=batch_size, execution=execution)
    best = able[0]
    if milliseconds:
        other = min(milliseconds, key=milliseconds.__getitem__)
        best = other if milliseconds[other] < _MARGIN * milliseconds[best] else best
        said = ", ".join(f"{name} {value:.1f} ms" for name, value in milliseconds.items())
        print(f"chose {best} for batches of {batch_size}: {said}", file=sys.stderr)
    decisions[key] = {"backend": best, "milliseconds": milliseconds, "processor": processor()}
    try:
        write_text(path, to_json(decisions, indent=1))
    except UserError as error:
        print(f"{error} Measures again next time.", file=sys.stderr)
    return best


def _key(request: ConversionRequest, batch_size: int, execution: Execution) -> str:
    """Returns a text that differs where another decision may be right."""
    rows = 1 << (batch_size - 1).bit_length()
    versions = [backends.get(name).versions() for name in CANDIDATES]
    facts = [asdict(replace(request, backend="auto")), rows, execution, versions, processor()]
    return hashlib.sha256(to_json(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict:
    """Reads earlier decisions; none where the file is missing or damaged."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(one["backend"] in CANDIDATES for one in found.values()):
            return found
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        pass
    print(f"{path} is damaged: measures again", file=sys.stderr)
    return {}


def _measured(
    native_dir: str | Path,
    request: ConversionRequest,
    names: Sequence[str],
    *,
    batch_size: int,
    execution: Execution,
) -> dict[str, float]:
    """Returns the time of a batch in each runtime, in milliseconds, summed over a few shapes.

    Each shape runs once in every runtime before the clock starts, then in turn. The result is empty
    if the first runtime is the only one that works, or if not even one shape fits into the time.
    """
    loaded, opened = LoadedModel(native_dir), {}
    for name in names:
        try:
            opened[name] = _opened(native_dir, replace(request, backend=name), loaded, execution)
        except (UserError, RuntimeError, OSError, MemoryError) as error:
            if name == names[0]:
                raise
            print(f"{name} is not measured: {one_line(error)}", file=sys.stderr)
            return {}
    signatures = opened[names[0]].manifest["signatures"]
    large = [name for name, described in signatures.items() if not described["small"]]
    totals: dict[str, float] = {}
    started, last = time.perf_counter(), 0.0
    deadline, measured = started + _BUDGET_SECONDS, set()
    for share in _SHARES:
        before = time.perf_counter()
        if before + 2 * last > deadline:  # a shape of twice the length
            break
        for signature in large:
            inputs = _sample(opened[names[0]].inputs[signature], batch_size, share)
            shapes = signature, *((name, array.shape) for name, array in inputs.items())
            if shapes in measured:
                continue
            measured.add(shapes)
            functions = {name: opened[name].functions[signature] for name in names}
            for name, seconds in _in_turn(functions, inputs, deadline).items():
                totals[name] = totals.get(name, 0.0) + 1e3 * seconds
        last = time.perf_counter() - before
    return totals


def _opened(
    native_dir: str | Path, request: ConversionRequest, loaded: LoadedModel, execution: Execution
) -> Artifact:
    """Converts and opens a model; a damaged conversion of the cache is made again."""
    how = {"loaded": loaded, "may_be_temporary": True}
    manifest = convert(native_dir, None, request, **how)
    say_converted(native_dir, manifest)
    try:
        return open_artifact(manifest["directory"], execution)
    except UserError as error:
        if not manifest["reused"]:
            raise
        print(f"{error} Converts again.", file=sys.stderr)
        manifest = convert(native_dir, None, request, anew=True, **how)
        say_converted(native_dir, manifest)
        return open_artifact(manifest["directory"], execution)


def _in_turn(
    functions: Mapping[str, Function], inputs: Mapping[str, np.ndarray], deadline: float
) -> dict[str, float]:
    """Returns the least time of a run in each runtime, in seconds; empty after the deadline."""
    for function in functions.values():
        function(inputs)
    best: dict[str, float] = {}
    for _ in range(_TIMED_RUNS):
        if time.perf_counter() > deadline:
            break
        for name, function in functions.items():
            started = time.perf_counter()
            function(inputs)
            seconds = time.perf_counter() - started
            best[name] = min(best.get(name, seconds), seconds)
    return best


def _sample(specs: Sequence[TensorSpec], batch_size: int, share: int) -> dict[str, np.ndarray]:
    """Makes inputs of noise; other axes than the batch have a part of their longest size."""
    rng, sample, longest = np.random.default_rng(0), {}, 1
    for name, dtype, shape in sorted(specs, key=lambda spec: -len(spec.shape)):
        sizes = [x if isinstance(x, int) else max(x[0], x[1] // share) for x in shape]
        if shape and isinstance(shape[0], tuple):
            sizes[0] = min(max(shape[0][0], batch_size), shape[0][1])
        values = rng.integers(0, 256 if dtype == "uint8" else 2, sizes)
        if np.dtype(dtype).kind == "f":
            values = 0.1 * rng.standard_normal(sizes)
        elif name == LENGTHS:
            values = np.full(sizes, longest)
        sample[name] = values.astype(dtype)
        longest = max([longest, *sizes[1:2]])
    return sample
