"""Hashes of files, which tell whether a result belongs to them as they are now."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of the content of a file, 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_hash(files: Iterable[tuple[str, Path]]) -> str:
    """Returns the SHA-256 of the names and contents of files, 64 hexadecimal digits.

    Args:
        files: pairs of a name, which goes into the hash, and a path, in an order that matters.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(name.encode() + b"\0" + bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


def code_hash(folder: Path) -> str:
    """Returns the SHA-256 of the Python files in a folder and its subfolders.

    Args:
        folder: folder of a package.
    """
    paths = sorted(folder.rglob("*.py"))
    return files_hash((path.relative_to(folder).as_posix(), path) for path in paths)
