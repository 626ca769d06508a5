"""Converted models: directories with the files of a runtime and a manifest."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from tools.conversion import backends
from tools.conversion.machine import machine
from tools.conversion.pipeline import MANIFEST_FILE, PIPELINE_FILE
from tools.conversion.protocol import DEFAULT_EXECUTION, Execution, Function, Opened, TensorSpec
from tools.errors import UserError
from tools.files import to_json
from tools.hashing import file_hash

FORMAT = 4
_PARTS = {"request", "machine", "versions", "signatures", "files"}  # keys of a manifest


class Artifact(NamedTuple):
    """An opened converted model.

    Attributes:
        manifest: content of its `manifest.json`.
        pipeline: content of its `pipeline.json`.
        files: its files, except the manifest.
        inputs: inputs of each signature, by the name of the signature.
        functions: function of each signature, for one session.
        shared: what the functions share with those of other sessions. It must be kept in memory
            while the functions are in use.
    """

    manifest: dict
    pipeline: dict
    files: list[Path]
    inputs: dict[str, tuple[TensorSpec, ...]]
    functions: dict[str, Function]
    shared: Sequence[Opened] = ()


# Opened signatures of this process: the sessions of an artifact share its weights.
_OPEN: WeakValueDictionary[tuple, Opened] = WeakValueDictionary()
_OPENING = threading.Lock()  # so that two threads do not load the same weights twice


def open_artifact(converted_dir: str | Path, execution: Execution = DEFAULT_EXECUTION) -> Artifact:
    """Opens a converted model for one session.

    All sessions of a converted model in a process share its weights. They share no other state, so
    that several threads can run one session each at the same time.

    Args:
        converted_dir: directory of the converted model.
        execution: use of threads.

    Raises:
        UserError: the directory holds no converted model, it is damaged, or it was made by other
            versions or for another machine.
    """
    directory = Path(converted_dir)
    manifest = read_manifest(directory)
    if manifest is None:
        raise UserError.expected(
            f"a converted model with a {MANIFEST_FILE}",
            directory if directory.exists() else f"{directory}, which does not exist",
            "Make one with `python -m tools.cli.convert`",
        )
    if manifest.get("format") != FORMAT:
        raise _again(directory, f"format {FORMAT}", f"format {manifest.get('format')}")
    missing = sorted(_PARTS - manifest.keys())
    if missing:
        raise _again(directory, f"a whole {MANIFEST_FILE}", f"one without {missing[0]}")
    names = {described["backend"] for described in manifest["signatures"].values()}
    opened = {name: backends.get(name) for name in names}
    here = {"machine": machine()}
    for backend in opened.values():
        here |= backend.versions()
    there = {**manifest["versions"], "machine": manifest["machine"]}
    for name, version in here.items():
        if there.get(name) != version:
            raise _again(directory, f"{name} {version}", there.get(name, "another"))
    for name, expected in manifest["files"].items():
        path = directory / name
        if not path.is_file() or file_hash(path) != expected:
            raise _again(directory, f"the {name} that was written", "another one or none")
    pipeline = json.loads((directory / PIPELINE_FILE).read_text(encoding="utf-8"))
    inputs, functions, shared = {}, {}, []
    content = to_json(manifest, sort_keys=True)
    for name, described in manifest["signatures"].items():
        inputs[name] = tuple(
            TensorSpec(tensor, dtype, tuple(tuple(x) if isinstance(x, list) else x for x in shape))
            for tensor, dtype, shape in described["inputs"]
        )
        key = execution, name, content
        with _OPENING:
            found = _OPEN.get(key)
            if found is None:
                first = directory / described["files"][0]
                backend = opened[described["backend"]]
                found = _OPEN[key] = backend.open(first, described, execution)
        shared.append(found)
        functions[name] = found()
    files = [directory / name for name in manifest["files"]]
    return Artifact(manifest, pipeline, files, inputs, functions, shared)


def _again(directory: Path, expected: str, received: object) -> UserError:
    return UserError.expected(f"{directory} with {expected}", received, "Convert it again")


def is_artifact(directory: str | Path) -> bool:
    """Returns whether a directory holds a converted model."""
    return (Path(directory) / MANIFEST_FILE).is_file()


def read_manifest(directory: Path) -> dict | None:
    """Returns the manifest of a converted model, or None if it cannot be read."""
    try:
        found = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
