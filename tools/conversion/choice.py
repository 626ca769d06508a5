"""Chooses the faster runtime for a model by timing OpenVINO and ONNX Runtime once."""

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

CANDIDATES = ("openvino", "onnxruntime")  # a choice of the second needs a clear difference
_LARGE_BYTES = 1 << 30
_MARGIN = 0.95  # the other one must take less than this part of the time of the first
_BUDGET_SECONDS = 8.0
_SHARES = (16, 8, 4)  # the longest input divided by these numbers is timed
_TIMED_RUNS = 3


def choose_backend(
    loaded: LoadedModel,
    request: ConversionRequest,
    batch_size: int,
    execution: Execution,
    *,
    converted_dir: str | Path | None = None,
) -> str:
    """Returns the faster runtime for a model on this machine.

    Converts the model for OpenVINO and ONNX Runtime, times both in at most about 10 s, prints the
    choice and stores it in the cache. For a quantized model, it returns the first installed
    runtime, because a second calibration would take too long, and also for a model of more than
    1 GB, because of its memory. It returns XLA, which can compile for minutes, only if no other
    runtime is installed.

    Args:
        loaded: the SavedModel.
        request: request of the conversion; its backend is ignored.
        batch_size: number of rows in a batch.
        execution: use of threads.
        converted_dir: directory of the user for the conversion. If it holds a conversion that
            differs from the request only in the runtime, that runtime is returned.
    """
    default = backends.choose("auto")
    names = [name for name in CANDIDATES if backends.is_installed(name)]
    able = [name for name in names if request.precision in backends.get(name).precisions()]
    if request.quantized or default != CANDIDATES[0] or len(able) < 2:
        return default
    files = (path for path in loaded.native_dir.rglob("*") if path.is_file())
    if sum(path.stat().st_size for path in files) > _LARGE_BYTES:
        return default  # two conversions at once may need more memory than there is
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
    # Two processes that measure at the same time would slow each other down. The lock lets one
    # process measure; the other waits and reads the result.
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
    """Times the runtimes, chooses one of them and prints the choice."""
    milliseconds = _measured(loaded, request, names, batch_size=batch_size, execution=execution)
    best = names[0]
    if milliseconds:
        other = min(milliseconds, key=milliseconds.__getitem__)
        best = other if milliseconds[other] < _MARGIN * milliseconds[best] else best
        said = ", ".join(f"{name} {value:.1f} ms" for name, value in milliseconds.items())
        print(f"chose {best} for batches of {batch_size}: {said}", file=sys.stderr)
    return {"backend": best, "milliseconds": milliseconds, "processor": processor()}


def _key(request: ConversionRequest, batch_size: int, execution: Execution) -> str:
    """Returns a key of everything on which the choice depends."""
    rows = 1 << (batch_size - 1).bit_length()
    versions = [backends.get(name).versions() for name in CANDIDATES]
    facts = [asdict(replace(request, backend="auto")), rows, execution, versions, processor()]
    return hashlib.sha256(to_json(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict | None:
    """Returns the stored decisions, or None if the file is damaged."""
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
    """Returns the time of a batch in each runtime in milliseconds, summed over a few shapes.

    The runtimes take turns. The first run of each shape is not timed. The result is empty if only
    the first runtime works, or if no shape can be timed within the limit.
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
        if before + 2 * last > deadline:  # the next shape is twice as long
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
    """Returns the shortest time of a run in each runtime in seconds; empty after the deadline."""
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
    """Makes random inputs; free axes other than the batch have a part of their longest size."""
    shapes = {}
    for name, _, shape in specs:
        sizes = [x if isinstance(x, int) else max(x[0], x[1] // share) for x in shape]
        if shape and isinstance(shape[0], tuple):
            sizes[0] = min(max(shape[0][0], batch_size), shape[0][1])
        shapes[name] = sizes
    return random_inputs(specs, shapes)
