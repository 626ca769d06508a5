"""Opens weights that are not exported yet: exports them once into the cache of the user."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tools.config.command_line import CommandLine
from tools.conversion.artifact import is_artifact
from tools.conversion.cache import writable_place
from tools.errors import UserError
from tools.files import one_at_a_time, one_line, user_cache
from tools.hashing import files_hash
from tools.weights.hub import local_source

_PROJECT = Path(__file__).resolve().parents[2]


def add_pretrained_flag(flags: CommandLine, kinds: str) -> None:
    """Adds `--pretrained` to a program that runs exported models.

    Args:
        flags: command line of the program.
        kinds: kinds of sources that the family reads, such as "a training run".
    """
    flags.group("Model")
    about = (
        f"Weights to export into the user's cache and to run: {kinds}, or hf:owner/name[@revision]."
    )
    flags.string("pretrained", None, about, default_text="none")


def chosen_source(native_savedmodel_dir: str | None, pretrained: str | None) -> str | None:
    """Returns the value of the flag that is given; None if neither is.

    Raises:
        UserError: both flags are given.
    """
    if native_savedmodel_dir and pretrained:
        raise UserError.expected(
            "--native_savedmodel_dir or --pretrained", "both", "Leave one of them out"
        )
    return native_savedmodel_dir or pretrained


def exported_model(
    source: str | os.PathLike[str], family: str, export: Callable[[Path, Path], None]
) -> Path:
    """Returns the directory of an exported model, and exports the source first if necessary.

    Exports are kept in the cache of the user. A source is exported again if its files, or the code
    of this project, have changed.

    Args:
        source: directory of an exported or converted model, which is returned as it is; or weights
            that the family can export: a path, or `hf:owner/name[@revision]`.
        family: name of the family.
        export: function of the family that writes a source as a SavedModel, called with the path
            of the source and the directory to write.

    Raises:
        UserError: the source cannot be downloaded, read or exported.
    """
    path = local_source(source)
    if is_artifact(path) or (path / "saved_model.pb").is_file() or not any(_files(path)):
        return path  # the caller reports a path that does not exist, or an empty folder
    place = writable_place(user_cache() / "exported" / f"{family}-{_key(path)}")
    with one_at_a_time(place):
        if not (place / "saved_model.pb").is_file():
            print(f"exporting {one_line(source)} to {place}", file=sys.stderr)
            export(path, place)
    return place


def _key(source: Path) -> str:
    """Returns a hash of the files of a source and of the code of this project."""
    files = (*_code(), *_files(source))
    return files_hash((path.relative_to(folder).as_posix(), path) for folder, path in files)[:16]


def _code() -> Iterable[tuple[Path, Path]]:
    for name in ("conformer", "tools", "vision", "wav2vec2"):
        yield from ((_PROJECT, path) for path in sorted((_PROJECT / name).rglob("*.py")))


def _files(source: Path) -> Iterable[tuple[Path, Path]]:
    """Yields a folder and each file of a source in it. Hidden files, as those of git, are none."""
    if source.is_file():
        yield source.parent, source
        return
    for folder, names, files in os.walk(source, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith("."))
        paths = (Path(folder, name) for name in sorted(files) if not name.startswith("."))
        yield from ((source, path) for path in paths if path.is_file())
