"""From a SavedModel to an artifact: a runtime's files, and a manifest of what made them."""

import atexit
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from tools.conversion import backends
from tools.conversion.artifact import FORMAT, file_hash, read_manifest
from tools.conversion.dim_range import bounded
from tools.conversion.machine import machine
from tools.conversion.pipeline import MANIFEST_FILE, PIPELINE_FILE, read_pipeline, source_hash
from tools.conversion.protocol import Calibration, TensorSpec
from tools.conversion.request import (
    ALGORITHMS,
    GRANULARITIES,
    OPT_CONFIG,
    TYPES,
    ConversionRequest,
    Quantization,
)
from tools.errors import UserError
from tools.files import check_writable, new_folder, one_at_a_time, to_json

_FULL_BYTES = 1 << 22  # left on a disk that had no room for a file of a model
_CONVERTERS = ("tensorflow", "tf2onnx", "onnx", "nncf")


def convert(
    native_dir: str | Path,
    converted_dir: str | Path | None,
    request: ConversionRequest,
    calibration: Calibration | None = None,
    *,
    loaded: "LoadedModel | None" = None,
    anew: bool = False,
    may_be_temporary: bool = False,
) -> dict:
    """Converts a SavedModel, unless the same was done before.

    Args:
        native_dir: a SavedModel with its `pipeline.json`.
        converted_dir: new, or an artifact of the same family, which is replaced where it does not
            match; None is a folder of the user's cache.
        request: what to make.
        calibration: data to quantize with; read only where that is due.
        loaded: the same SavedModel, where several conversions of it follow one another.
        anew: converts also where the same was done before.
        may_be_temporary: converts into a temporary folder where the cache cannot be written.

    Returns:
        The manifest, with the `directory`, and `reused` true where nothing had to be done.

    Raises:
        UserError: a bad source, request or place.
    """
    native_dir = Path(native_dir)
    pipeline = read_pipeline(native_dir)
    name = backends.choose(request.backend)
    backend = backends.get(name)
    _check(request, backend)  # what was asked for, also where it does not apply
    request = request.settled(name, backend.NOT_APPLICABLE)
    wanted = {
        "format": FORMAT,
        "family": pipeline["family"],
        "source_sha256": source_hash(native_dir),
        "request": _plain(asdict(request)),
        "machine": machine(),
        "versions": backend.versions() | backends.get(backend.SMALL).versions(),
        "converted_by": {
            **{name: importlib.metadata.version(name) for name in _CONVERTERS},
            "tools.conversion": _own_version(),
        },
    }
    in_cache = converted_dir is None
    converted_dir = _cached(wanted) if in_cache else Path(converted_dir)

    def earlier(aloud: bool = False) -> dict | None:
        if anew:
            return None
        return _earlier(converted_dir, wanted, request, calibration, aloud=aloud)

    if in_cache and _is_damaged(converted_dir):
        print(f"{converted_dir} is damaged: converts again", file=sys.stderr)
        anew = True
    manifest = earlier(aloud=True)
    if manifest is None:
        if in_cache and may_be_temporary:
            converted_dir = _writable(converted_dir)
        with one_at_a_time(converted_dir):
            # Another process may have made the same while this one waited.
            manifest = earlier() or _made(
                native_dir,
                pipeline,
                converted_dir,
                wanted,
                request=request,
                calibration=calibration,
                loaded=loaded or LoadedModel(native_dir),
            )
    return {"reused": True, **manifest, "directory": str(converted_dir)}


def say_converted(native_dir: str | Path, manifest: Mapping) -> None:
    """Prints one line about a conversion, unless an earlier one is used again."""
    if not manifest["reused"]:
        print(
            f"converted {native_dir} for {manifest['request']['backend']} in "
            f"{manifest['seconds']:.1f} s: {manifest['directory']}",
            file=sys.stderr,
        )


def _earlier(
    converted_dir: Path,
    wanted: Mapping,
    request: ConversionRequest,
    calibration: Calibration | None,
    *,
    aloud: bool,
) -> dict | None:
    """The manifest of an earlier conversion that is the same; None where there is none.

    Raises:
        UserError: something else is there.
    """
    existing = read_manifest(converted_dir)
    if existing is not None and all(existing.get(key) == value for key, value in wanted.items()):
        fixed = request.quantized and calibration is not None and calibration.required
        if not fixed or existing.get("calibration") == calibration.described:
            return existing
    if existing is not None and existing.get("family") != wanted["family"]:
        raise UserError.expected(
            f"a --converted_savedmodel_dir that is new or a conversion of {wanted['family']}",
            f"{converted_dir}, a conversion of {existing.get('family') or 'something else'}",
            "Choose another",
        )
    if existing is not None and aloud:
        for what in ("machine", "versions"):
            there, here = existing.get(what), wanted[what]
            if there != here:
                line = f"{converted_dir} was made for {_words(there)}, here is {_words(here)}"
                print(f"{line}: converts again", file=sys.stderr)
    if existing is None and _holds_something(converted_dir):
        raise UserError.expected(
            "a --converted_savedmodel_dir that is new or an earlier conversion",
            converted_dir,
            "Choose another",
        )
    return None


def _made(
    native_dir: Path,
    pipeline: Mapping,
    converted_dir: Path,
    wanted: Mapping,
    *,
    request: ConversionRequest,
    calibration: Calibration | None,
    loaded: "LoadedModel",
) -> dict:
    """Converts, and gives the manifest with `reused` false."""
    started = time.perf_counter()
    if not request.quantized:
        calibration = None
    elif calibration is None:
        raise UserError.expected(
            f"data to calibrate {request.precision} with", "none", "Name a --calibration_data_dir"
        )
    examples = calibration.read() if calibration else None
    with new_folder(converted_dir, replace=True) as folder:
        signatures = _convert_signatures(loaded, folder, pipeline, request, examples=examples)
        manifest = {
            **wanted,
            "not_applicable": dict(backends.get(request.backend).NOT_APPLICABLE),
            "calibration": calibration.described if calibration else None,
            "signatures": signatures,
            "seconds": round(time.perf_counter() - started, 3),
        }
        (folder / PIPELINE_FILE).write_text(to_json(pipeline, indent=1))
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest["files"] = {str(path.relative_to(folder)): file_hash(path) for path in paths}
        (folder / MANIFEST_FILE).write_text(to_json(manifest, indent=1))
    return {**manifest, "reused": False}


def _own_version() -> str:
    """A hash of this package: what an older state of it converted is converted again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _check(request: ConversionRequest, backend: backends.Backend) -> None:
    precisions = backend.precisions()
    if request.precision not in precisions:
        raise UserError.expected(
            f"a precision that {backend.NAME} has here ({', '.join(precisions)})",
            request.precision,
            "Choose one of them, or another --backend",
        )
    unknown = sorted(set(request.opt_config or ()) - set(OPT_CONFIG))
    if unknown:
        raise UserError.expected(
            f"--opt_config of {', '.join(OPT_CONFIG)}", unknown[0], "Correct --opt_config"
        )
    asked = request.quantization or Quantization()
    for flag, value, values in (
        ("quantize_algo", asked.algo, ALGORITHMS),
        ("quantize_type", asked.type, TYPES),
        ("quantize_granularity", asked.granularity, GRANULARITIES),
    ):
        if value not in values:
            raise UserError.expected(f"--{flag} {' or '.join(values)}", value, f"Correct --{flag}")


def _cached(wanted: Mapping) -> Path:
    """The place in the user's cache for what a manifest begins with."""
    request = wanted["request"]
    # Machines that share a home have conversions of their own.
    exact = to_json([request, wanted["machine"]], sort_keys=True)
    exact = hashlib.sha256(exact.encode()).hexdigest()[:8]
    name = f"{wanted['source_sha256'][:16]}-{request['backend']}-{request['precision']}-{exact}"
    return _cache() / name


def _cache() -> Path:
    """Returns the folder of converted models in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "conformer-zoo" / "converted"


def _writable(place: Path) -> Path:
    """The place, or one in a temporary folder where nothing can be written there."""
    try:
        check_writable(place.with_name(f".{place.name}.try"))
        return place
    except UserError as error:
        folder = Path(tempfile.mkdtemp(prefix="converted-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        print(f"{error} Converts into {folder} until this program ends.", file=sys.stderr)
        return folder / place.name


def _is_damaged(place: Path) -> bool:
    """Tells whether a folder holds something that is no whole conversion."""
    manifest = read_manifest(place)
    if manifest is None:
        return _holds_something(place)
    files = manifest.get("files")
    return not isinstance(files, dict) or not all((place / name).is_file() for name in files)


def _holds_something(place: Path) -> bool:
    try:
        return place.exists() and (not place.is_dir() or any(place.iterdir()))
    except PermissionError:
        return False  # what cannot be read will not be written either, and that is told


def _words(facts: object) -> str:
    """Writes the machine or the versions of a manifest for a message."""
    if isinstance(facts, Mapping):
        return ", ".join(f"{name} {version}" for name, version in facts.items())
    return str(facts)


def decision_path(native_dir: str | Path) -> Path:
    """Returns the file in the user's cache with the runtimes that were chosen for a model."""
    return _cache() / f"{source_hash(native_dir)[:16]}-backends.json"


class LoadedModel:
    """A SavedModel that is converted, perhaps for several runtimes one after the other.

    Args:
        native_dir: of the SavedModel.

    Attributes:
        graphs: of its signatures as ONNX, by the signature and the rewrites that were made.
    """

    def __init__(self, native_dir: str | Path):
        self.native_dir, self.graphs = Path(native_dir), {}

    @functools.cached_property
    def functions(self) -> Mapping:
        """The concrete functions by signature; loading them takes seconds."""
        # An artifact that is used again needs no converter: TensorFlow and tf2onnx would slow every
        # start by seconds.
        from tools.conversion.saved_model import load_saved_model

        return load_saved_model(self.native_dir)


def _convert_signatures(loaded, folder, pipeline, request, *, examples) -> dict[str, dict]:
    from tools.conversion.saved_model import input_specs
    from tools.conversion.signature import Source

    functions = loaded.functions
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
    described, backend = {}, backends.get(request.backend)
    bar = tqdm(pipeline["convert"].items(), desc="converting", unit="signature", file=sys.stderr)
    for name, conversion in bar:
        bar.set_postfix_str(name)
        source = Source(
            name=name,
            native_dir=loaded.native_dir,
            functions=functions,
            graphs=loaded.graphs,
            specs=_input_ranges(input_specs(functions[name]), conversion["dim_range"], request),
            small=conversion.get("small", False),
            keep_in_float=conversion.get("keep_in_float", ()),
            options=request.opt_config or (),
        )
        own = backends.get(backend.SMALL) if source.small else backend
        try:
            saved = own.save(source, request, folder, examples)
        except RuntimeError as error:  # what OpenVINO makes of a full disk
            if shutil.disk_usage(folder).free > _FULL_BYTES:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        described[name] = {
            "name": name,
            "backend": own.NAME,
            "files": saved.files,
            "options": dict(saved.options),
            "inputs": _plain(source.specs),
            "prepares_shapes": own.PREPARES_SHAPES,
            "paddable": conversion.get("paddable", False),
            "small": source.small,
            "rewrites": source.rewrites,
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
    return json.loads(to_json(value))
