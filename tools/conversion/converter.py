"""Converts SavedModels for other runtimes, and reuses earlier conversions."""

import hashlib
import importlib.metadata
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from tools.conversion import backends
from tools.conversion.artifact import FORMAT, Artifact, open_artifact, read_manifest
from tools.conversion.cache import cache_place, writable_place
from tools.conversion.loaded_model import LoadedModel, convert_signatures, plain
from tools.conversion.machine import machine
from tools.conversion.pipeline import MANIFEST_FILE, PIPELINE_FILE, is_onnx, read_pipeline
from tools.conversion.protocol import Calibration, Execution
from tools.conversion.request import (
    ALGORITHMS,
    GRANULARITIES,
    OPT_CONFIG,
    TYPES,
    ConversionRequest,
    Quantization,
)
from tools.errors import UserError
from tools.files import new_folder, one_at_a_time, to_json
from tools.hashing import code_hash, file_hash

_CONVERTERS = ("tensorflow", "tf2onnx", "onnx", "nncf")


def convert(
    native_dir: str | Path,
    converted_dir: str | Path | None,
    request: ConversionRequest,
    calibration: Calibration | None = None,
    *,
    loaded: LoadedModel | None = None,
    anew: bool = False,
    may_be_temporary: bool = False,
) -> dict:
    """Converts a SavedModel, unless the same conversion exists already.

    Args:
        native_dir: directory of the SavedModel, with its `pipeline.json`.
        converted_dir: new directory, or one with a conversion of the same family. A conversion that
            does not match the request is replaced. None uses a directory in the cache of the user.
        request: request of the conversion.
        calibration: data for calibration; read only if the model is quantized.
        loaded: the same SavedModel, to share it with other conversions.
        anew: whether to replace a conversion in the cache even if it matches the request.
        may_be_temporary: whether to convert into a temporary directory if the cache is not
            writable.

    Returns:
        The manifest and three further keys: `directory`, `reused` (true if the conversion existed
        already) and `copied` (true if it was copied from another directory).

    Raises:
        UserError: the model, the request or the directory cannot be used.
    """
    pipeline = read_pipeline(native_dir)
    loaded = loaded or LoadedModel(native_dir)
    request, wanted = _settled(loaded, pipeline, request)
    in_cache = converted_dir is None
    place = cache_place(_cache_name(wanted)) if in_cache else Path(converted_dir)
    if in_cache and _is_damaged(place):
        print(f"{place} is damaged: converts again", file=sys.stderr)
        anew = True
    manifest = None if anew else _earlier(place, wanted, request, calibration, aloud=True)
    if manifest is None:
        target = writable_place(place) if in_cache and may_be_temporary else place
        with one_at_a_time(target):
            if not anew or target != place:
                # Another process may have converted while this one waited for the lock.
                manifest = _earlier(target, wanted, request, calibration)
            if manifest is None and not in_cache:
                manifest = _copied(loaded.conversions, target, wanted)
            manifest = manifest or _made(
                loaded, pipeline, target, wanted, request=request, calibration=calibration
            )
        place = target
    return {"reused": True, "copied": False, **manifest, "directory": str(place)}


def open_converted(
    loaded: LoadedModel,
    converted_dir: str | Path | None,
    request: ConversionRequest,
    calibration: Calibration | None = None,
    *,
    execution: Execution,
) -> tuple[Artifact, dict]:
    """Converts a SavedModel, unless the same conversion exists already, and opens the conversion.

    A damaged conversion in the cache is replaced.

    Args:
        loaded: the SavedModel.
        converted_dir: directory of the conversion; see `convert`.
        request: request of the conversion.
        calibration: data for calibration.
        execution: use of threads.

    Returns:
        The opened model, and the manifest as `convert` returns it.

    Raises:
        UserError: the model, the request or the directory cannot be used, or the conversion in
            `converted_dir` is damaged.
    """
    how = {"loaded": loaded, "may_be_temporary": True}
    manifest = convert(loaded.native_dir, converted_dir, request, calibration, **how)
    try:
        return open_artifact(manifest["directory"], execution), manifest
    except UserError as error:
        if converted_dir is not None or not manifest["reused"]:
            raise
        print(f"{error} Converts again.", file=sys.stderr)
    manifest = convert(loaded.native_dir, None, request, calibration, anew=True, **how)
    return open_artifact(manifest["directory"], execution), manifest


def say_converted(native_dir: str | Path, manifests: Iterable[Mapping]) -> None:
    """Prints one line about new conversions; prints nothing if all were reused.

    Args:
        native_dir: directory of the SavedModel.
        manifests: results of `convert` for one SavedModel.
    """
    made = [manifest for manifest in manifests if not manifest["reused"]]
    if not made:
        return
    names = " and ".join(manifest["request"]["backend"] for manifest in made)
    places = {Path(manifest["directory"]) for manifest in made}
    place = places.pop() if len(places) == 1 else places.pop().parent
    if made[0]["copied"]:
        print(f"copied the conversion for {names}: {place}", file=sys.stderr)
        return
    seconds = sum(manifest["seconds"] for manifest in made)
    print(f"converted {native_dir} for {names} in {seconds:.1f} s: {place}", file=sys.stderr)


def matching_backend(
    loaded: LoadedModel, converted_dir: str | Path, request: ConversionRequest
) -> str | None:
    """Returns the runtime of a conversion that differs from a request at most in the runtime.

    Args:
        loaded: the SavedModel.
        converted_dir: directory of the conversion.
        request: request of the conversion.

    Returns:
        Name of the backend, or None if the directory holds no such conversion.
    """
    manifest = read_manifest(Path(converted_dir)) or {}
    asked = manifest.get("request")
    name = asked.get("backend") if isinstance(asked, dict) else None
    if name not in backends.NAMES or not backends.is_installed(name):
        return None
    pipeline = read_pipeline(loaded.native_dir)
    _, wanted = _settled(loaded, pipeline, replace(request, backend=name))
    return name if _is_same(manifest, wanted) else None


def _settled(
    loaded: LoadedModel, pipeline: Mapping, request: ConversionRequest
) -> tuple[ConversionRequest, dict]:
    """Returns the request for its backend, and the start of the manifest of the conversion."""
    name = backends.choose(request.backend)
    backend = backends.get(name)
    _check(request, backend)  # all options, including those that do not apply to the backend
    if is_onnx(loaded.native_dir) and name == "xla":
        raise UserError.expected(
            "--backend openvino or onnxruntime for an ONNX file", name, "Choose one of them"
        )
    request = request.settled(name, _not_applicable(loaded, backend))
    return request, {
        "format": FORMAT,
        "family": pipeline["family"],
        "source_sha256": loaded.sha256,
        "request": plain(asdict(request)),
        "machine": machine(),
        "versions": backend.versions() | backends.get(backend.SMALL).versions(),
        "converted_by": {
            **{name: importlib.metadata.version(name) for name in _CONVERTERS},
            "tools.conversion": _own_version(),
        },
    }


def _not_applicable(loaded: LoadedModel, backend: backends.Backend) -> dict[str, str]:
    """Returns the options that do not apply to a model and a backend, with the reasons."""
    of_file = {"opt_config": "the graph of an ONNX file is not rewritten"}
    return {**backend.NOT_APPLICABLE, **(of_file if is_onnx(loaded.native_dir) else {})}


def _is_same(manifest: Mapping, wanted: Mapping) -> bool:
    return all(manifest.get(key) == value for key, value in wanted.items())


def _earlier(
    converted_dir: Path,
    wanted: Mapping,
    request: ConversionRequest,
    calibration: Calibration | None,
    *,
    aloud: bool = False,
) -> dict | None:
    """Returns the manifest of an earlier conversion that matches, or None.

    Raises:
        UserError: the directory holds something else.
    """
    existing = read_manifest(converted_dir)
    if existing is not None and _is_same(existing, wanted):
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
    if existing is None:
        check_target(converted_dir)
    return None


def check_target(converted_dir: str | Path) -> None:
    """Checks, before long work, that a directory is new, empty or an earlier conversion.

    Raises:
        UserError: it holds something else.
    """
    directory = Path(converted_dir)
    if read_manifest(directory) is None and _holds_something(directory):
        raise UserError.expected(
            "a --converted_savedmodel_dir that is new or an earlier conversion",
            converted_dir,
            "Choose another",
        )


def _copied(places: Iterable[Path], target: Path, wanted: Mapping) -> dict | None:
    """Copies a matching conversion from another directory; returns None if there is none."""
    for place in places:
        manifest = read_manifest(place)
        if manifest is not None and _is_same(manifest, wanted):
            with new_folder(target, replace=True) as folder:
                shutil.copytree(place, folder, dirs_exist_ok=True)
            return {**manifest, "reused": False, "copied": True}
    return None


def _made(
    loaded: LoadedModel,
    pipeline: Mapping,
    converted_dir: Path,
    wanted: Mapping,
    *,
    request: ConversionRequest,
    calibration: Calibration | None,
) -> dict:
    """Converts a SavedModel and returns the manifest, with `reused` false."""
    started = time.perf_counter()
    if not request.quantized:
        calibration = None
    elif calibration is None:
        raise UserError.expected(
            f"data to calibrate {request.precision} with", "none", "Name a --calibration_data_dir"
        )
    examples = calibration.read() if calibration else None
    with new_folder(converted_dir, replace=True) as folder:
        signatures = convert_signatures(loaded, folder, pipeline, request, examples=examples)
        manifest = {
            **wanted,
            "not_applicable": _not_applicable(loaded, backends.get(request.backend)),
            "calibration": calibration.described if calibration else None,
            "signatures": signatures,
            "seconds": round(time.perf_counter() - started, 3),
        }
        (folder / PIPELINE_FILE).write_text(to_json(pipeline, indent=1))
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest["files"] = {str(path.relative_to(folder)): file_hash(path) for path in paths}
        (folder / MANIFEST_FILE).write_text(to_json(manifest, indent=1))
    if not loaded.keeps:
        loaded.release()
    return {**manifest, "reused": False}


def _own_version() -> str:
    """Returns a hash of this package, so that models are converted again after a change of it."""
    return code_hash(Path(__file__).parent)[:16]


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


def _cache_name(wanted: Mapping) -> str:
    """Returns the name of the directory in the cache for the start of a manifest."""
    request = wanted["request"]
    # Different machines that share a home directory use different conversions.
    exact = to_json([request, wanted["machine"]], sort_keys=True)
    exact = hashlib.sha256(exact.encode()).hexdigest()[:8]
    return f"{wanted['source_sha256'][:16]}-{request['backend']}-{request['precision']}-{exact}"


def _is_damaged(place: Path) -> bool:
    """Returns whether a directory holds something other than a complete conversion."""
    manifest = read_manifest(place)
    if manifest is None:
        return _holds_something(place)
    files = manifest.get("files")
    return not isinstance(files, dict) or not all((place / name).is_file() for name in files)


def _holds_something(place: Path) -> bool:
    try:
        return place.exists() and (not place.is_dir() or any(place.iterdir()))
    except PermissionError:
        return False  # the error follows when the directory is written


def _words(facts: object) -> str:
    """Returns the machine or the versions of a manifest as text for a message."""
    if isinstance(facts, Mapping):
        return ", ".join(f"{name} {version}" for name, version in facts.items())
    return str(facts)
