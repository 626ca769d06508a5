"""Weight files: what `torch.save` writes and `.safetensors` in, `.safetensors` out."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - NumPy then knows bfloat16, which safetensors asks for by name
import numpy as np
import safetensors
import safetensors.numpy

from tools.errors import UserError
from tools.weights.pth import read_pth

PTH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_weights(path: str | os.PathLike) -> Any:
    """Reads a weight file by its suffix, in any case.

    Args:
        path: `.safetensors`, or what `torch.save` wrote.

    Returns:
        Arrays by name; of a `.pth` whatever containers are in it.

    Raises:
        UserError: another suffix, or a file that cannot be read safely and wholly.
    """
    path = Path(path)
    _check_no_pointer(path)
    name = path.name.lower()
    if name.endswith(PTH_SUFFIXES):
        return read_pth(path)
    if not name.endswith(".safetensors"):
        suffixes = " ".join((*PTH_SUFFIXES, ".safetensors"))
        raise UserError.expected(f"a weight file ({suffixes})", path, "Name another file")
    try:
        return safetensors.numpy.load_file(path)
    # The last two: a type of element that NumPy has not got.
    except (OSError, safetensors.SafetensorError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError.expected(
            "a whole .safetensors file", f"{path}: {reason}", "Correct the path or the file"
        ) from error


def _check_no_pointer(path: Path) -> None:
    """Refuses what git leaves in place of a large file where git-lfs is not installed."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError.expected(
                f"weights in {path}",
                "a git-lfs pointer, which stands for the file",
                "Fetch it with `git lfs pull`, or download the file itself",
            )


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name beside their place, then renames the file.

    Raises:
        UserError: another suffix, or the file cannot be written; what was there before is left.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError.expected("a name that ends in .safetensors", path, "Correct the name")
    beside = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
        safetensors.numpy.save_file(contiguous, beside)
        beside.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise UserError.expected(
            f"room and permission to write {path}", error, "Free space or choose another place"
        ) from error
