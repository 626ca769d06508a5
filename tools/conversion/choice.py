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
from tools.conversion.cache import cache_place, writable_place
from tools.conversion.converter import matching_backend, open_converted, say_converted
from tools.conversion.loaded_model import LoadedModel
from tools.conversion.machine import processor
from tools.conversion.protocol import Execution, Function, TensorSpec
from tools.conversion.request import ConversionRequest
from tools.conversion.samples import random_inputs
from tools.errors import UserError
from tools.files import one_at_a_time, one_line, to_json, write_text

CANDIDATES = ("openvino", "onnxruntime")  # the first one is kept unless another is clearly faster
_MARGIN = 0.95  # of the first one's time that another has to stay below
_BUDGET_SECONDS = 8.0
_SHARES = (16, 8, 4)  # of the longest input: these parts of it are run
_TIMED_RUNS = 3


def choose_backend(
    loaded: LoadedModel,
    request: ConversionRequest,
    batch_size: int,
    execution: Execution,
    *,
    converted_dir: str | Path | None = None,
) -> str:
    """Returns the runtime that is the faster one for a model on this machine.

    Measures OpenVINO against ONNX Runtime in at most about 10 s, besides the conversions, keeps the
    decision in the cache beside the conversions, and prints it. A quantized model uses the first
    runtime that is installed, because a second calibration would take longer than it could save.
    XLA, which may compile for minutes, is never chosen while another runtime is installed.

    Args:
        loaded: the SavedModel.
        request: the conversion; its backend is ignored.
        batch_size: rows of a batch.
        execution: how the model will run.
        converted_dir: folder of the user for the conversion. The runtime of an earlier conversion
            there is kept if nothing else about it has to change.
    """
    default = backends.choose("auto")
    names = [name for name in CANDIDATES if backends.is_installed(name)]
    able = [name for name in names if request.precision in backends.get(name).precisions()]
    if request.quantized or default != CANDIDATES[0] or len(able) < 2:
        return default
    if converted_dir is not None:
        kept = matching_backend(loaded, converted_dir, request)
        if kept in able:
            return kept
    path = cache_place(f"{loaded.sha256[:16]}-backends.json")
    key = _key(request, batch_size, execution)
    decisions = _read(path) or {}
    if key in decisions:
        return decisions[key]["backend"]
    path = writable_place(path)
    # Two processes that measure at the same time would slow each other down: one measures, the
    # other one waits for the decision.
    with one_at_a_time(path):
        decisions = _read(path)
        if decisions is None:
            print(f"{path} is damaged: measures again", file=sys.stderr)
            decisions = {}
        if key not in decisions:
            how = {"batch_size": batch_size, "execution": execution}
            decisions[key] = _decision(loaded, request, able, **how)
            try:
                write_text(path, to_json(decisions, indent=1))
            except UserError as error:
                print(f"{error} Measures again next time.", file=sys.stderr)
    return decisions[key]["backend"]


def _decision(
    loaded: LoadedModel,
    request: ConversionRequest,
    names: Sequence[str],
    *,
    batch_size: int,
    execution: Execution,
) -> dict:
    """Measures the runtimes, chooses one of them and prints the choice."""
    milliseconds = _measured(loaded, request, names, batch_size=batch_size, execution=execution)
    best = names[0]
    if milliseconds:
        other = min(milliseconds, key=milliseconds.__getitem__)
        best = other if milliseconds[other] < _MARGIN * milliseconds[best] else best
        said = ", ".join(f"{name} {value:.1f} ms" for name, value in milliseconds.items())
        print(f"chose {best} for batches of {batch_size}: {said}", file=sys.stderr)
    return {"backend": best, "milliseconds": milliseconds, "processor": processor()}


def _key(request: ConversionRequest, batch_size: int, execution: Execution) -> str:
    """Returns a text that differs where another decision may be right."""
    rows = 1 << (batch_size - 1).bit_length()
    versions = [backends.get(name).versions() for name in CANDIDATES]
    facts = [asdict(replace(request, backend="auto")), rows, execution, versions, processor()]
    return hashlib.sha256(to_json(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict | None:
    """Reads earlier decisions; None where the file is damaged."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(one["backend"] in CANDIDATES for one in found.values()):
            return found
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        pass
    return None


def _measured(
    loaded: LoadedModel,
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
    opened, manifests = {}, []
    for name in names:
        loaded.keeps = name != names[-1]
        asked = replace(request, backend=name)
        try:
            opened[name], manifest = open_converted(loaded, None, asked, execution=execution)
        except (UserError, RuntimeError, OSError, MemoryError) as error:
            if name == names[0]:
                raise
            print(f"{name} is not measured: {one_line(error)}", file=sys.stderr)
            break
        manifests.append(manifest)
        loaded.conversions.append(Path(manifest["directory"]))
    loaded.keeps = False
    loaded.release()
    say_converted(loaded.native_dir, manifests)
    if len(opened) < len(names):
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
    """Makes random inputs; other axes than the batch have a part of their longest size."""
    shapes = {}
    for name, _, shape in specs:
        sizes = [x if isinstance(x, int) else max(x[0], x[1] // share) for x in shape]
        if shape and isinstance(shape[0], tuple):
            sizes[0] = min(max(shape[0][0], batch_size), shape[0][1])
        shapes[name] = sizes
    return random_inputs(specs, shapes)
