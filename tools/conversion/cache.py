"""Paths of converted models in the cache of the user."""

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

from tools.errors import UserError
from tools.files import check_writable, user_cache

_TEMPORARY: dict[Path, Path] = {}  # directories of this process, by the cache directory


def cache_place(name: str) -> Path:
    """Returns the path of a file or directory in the cache of converted models."""
    return user_cache() / "converted" / name


def writable_place(place: Path) -> Path:
    """Returns a path of the cache, or one in a temporary directory if the cache is not writable.

    All models of a process share the temporary directory. It is removed when the process ends.

    Args:
        place: path in the cache, from `cache_place`.
    """
    try:
        check_writable(place.with_name(f".{place.name}.try"))
        return place
    except UserError as error:
        if place.parent not in _TEMPORARY:
            folder = _TEMPORARY[place.parent] = Path(tempfile.mkdtemp(prefix="converted-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            print(f"{error} Converts into {folder} until this program ends.", file=sys.stderr)
        return _TEMPORARY[place.parent] / place.name
