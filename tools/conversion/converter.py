"""From a SavedModel to an artifact: a runtime's files, and a manifest of what made them."""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from tools.conversion import backends
from tools.conversion.artifact import FORMAT, MANIFEST_FILE, file_hash, read_manifest
from tools.conversion.dim_range import DimRanges, bounded
from tools.conversion.saved_model import (
    PIPELINE_FILE,
    TensorSpec,
    input_specs,
    load_saved_model,
    read_pipeline,
    source_hash,
)
from tools.errors import UserError
from tools.files import new_folder

_CONVERTERS = ("tensorflow", "tf2onnx", "onnx")


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What an artifact is to be.

    Attributes:
        backend: a name of `backends.NAMES`, or `auto`.
        precision: one that the backend has.
        batch: smallest and largest batch.
        dim_range: by tensor, ranges of its free dimensions, batch first; they win over `batch` and
            over what `pipeline.json` says.
    """

    backend: str = "auto"
    precision: str = "fp32"
    batch: tuple[int, int] = (1, 2)
    dim_range: DimRanges = field(default_factory=dict)


def convert(
    native_dir: str | Path, converted_dir: str | Path | None, request: ConversionRequest
) -> dict:
    """Converts a SavedModel, unless the same was done before.

    Args:
        native_dir: a SavedModel with its `pipeline.json`.
        converted_dir: new, or an artifact, which is replaced where it does not match; None is a
            folder of the user's cache.
        request: what to make.

    Returns:
        The manifest, with the `directory`, and `reused` true where nothing had to be done.

    Raises:
        UserError: a bad source, request or place.
    """
    native_dir = Path(native_dir)
    pipeline = read_pipeline(native_dir)
    name = backends.choose(request.backend)
    backend = backends.get(name)
    if request.precision not in backend.PRECISIONS:
        raise UserError.expected(
            f"a precision of {name} ({', '.join(backend.PRECISIONS)})",
            request.precision,
            "Choose one of them, or another --backend",
        )
    wanted = {
        "format": FORMAT,
        "source_sha256": source_hash(native_dir),
        "request": _plain({**asdict(request), "backend": name}),
        "machine": platform.machine(),
        "versions": backend.versions() | backends.get(backend.SMALL).versions(),
        "converted_by": {name: importlib.metadata.version(name) for name in _CONVERTERS},
    }
    converted_dir = Path(converted_dir) if converted_dir is not None else _cached(wanted)
    outcome = {"directory": str(converted_dir), "reused": True}
    existing = read_manifest(converted_dir)
    if existing is not None and all(existing.get(key) == value for key, value in wanted.items()):
        return {**existing, **outcome}
    if existing is None and _holds_something(converted_dir):
        raise UserError.expected(
            "a --converted_savedmodel_dir that is new or an earlier conversion",
            converted_dir,
            "Choose another",
        )
    started = time.perf_counter()
    with new_folder(converted_dir, replace=True) as folder:
        signatures = _convert_signatures(native_dir, folder, pipeline, request, backend)
        manifest = {
            **wanted,
            "family": pipeline["family"],
            "signatures": signatures,
            "seconds": round(time.perf_counter() - started, 3),
        }
        (folder / PIPELINE_FILE).write_text(json.dumps(pipeline, indent=1))
        manifest["files"] = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
    return {**manifest, **outcome, "reused": False}


def _cached(wanted: Mapping) -> Path:
    """The place in the user's cache for what a manifest begins with."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    request = wanted["request"]
    name = f"{wanted['source_sha256'][:16]}-{request['backend']}-{request['precision']}"
    return cache / "conformer-zoo" / "converted" / f"{name}-{request['batch'][1]}"


def _holds_something(place: Path) -> bool:
    return place.exists() and (not place.is_dir() or any(place.iterdir()))


def _convert_signatures(native_dir, folder, pipeline, request, backend) -> dict[str, dict]:
    # An artifact that is used again needs no converter: tf2onnx would slow every start.
    from tools.conversion.graph import clean
    from tools.conversion.signature import to_onnx

    functions = load_saved_model(native_dir)
    missing = sorted(pipeline["convert"].keys() - functions.keys())
    if missing:
        raise UserError.expected(
            f"a SavedModel with the signatures {', '.join(pipeline['convert'])}",
            f"none called {missing[0]}",
            "Export the model again",
        )
    unknown = request.dim_range.keys() - {
        spec.name for name in pipeline["convert"] for spec in input_specs(functions[name])
    }
    if unknown:
        raise UserError.expected(
            "--dim_range of tensors that are converted", min(unknown), "Correct --dim_range"
        )
    described = {}
    bar = tqdm(pipeline["convert"].items(), desc="converting", unit="signature", file=sys.stderr)
    for name, conversion in bar:
        bar.set_postfix_str(name)
        specs = _input_ranges(input_specs(functions[name]), conversion["dim_range"], request)
        model = to_onnx(functions[name], name)
        rewrites = clean(model)
        own, precision = backend, request.precision
        if conversion.get("small", False):
            own, precision = backends.get(backend.SMALL), "fp32"
        described[name] = {
            "backend": own.NAME,
            "precision": precision,
            "files": own.save(model, specs, precision, folder / name),
            "inputs": _plain(specs),
            "outputs": [output.name for output in model.graph.output],
            "small": conversion.get("small", False),
            "rewrites": rewrites,
        }
    return described


def _input_ranges(
    specs: Sequence[TensorSpec], described: Mapping[str, list], request: ConversionRequest
) -> tuple[TensorSpec, ...]:
    """Ranges of a signature: those asked for, else the batch and what `pipeline.json` says."""
    batch = next((ranges[0] for ranges in request.dim_range.values()), request.batch)
    ranges = {
        spec.name: (batch, *map(tuple, described.get(spec.name, ())))
        for spec in specs
        if None in spec.shape
    }
    names = {spec.name for spec in specs}
    asked = {name: value for name, value in request.dim_range.items() if name in names}
    return bounded(specs, ranges | asked)


def _plain(value: object) -> object:
    """The value as JSON will give it back."""
    return json.loads(json.dumps(value))
