"""Weight files: reads PyTorch (`torch.save`) and `.safetensors` files, writes `.safetensors`."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with NumPy, for safetensors
import numpy as np
import safetensors
import safetensors.numpy

from tools.errors import UserError
from tools.weights.pth import read_pth

PTH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
_MINDSPORE = ".ckpt", b"\n"  # suffix and first byte of a checkpoint of MindSpore (Protocol Buffers)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_weights(path: str | os.PathLike) -> Any:
    """Reads a weight file. The suffix, in upper or lower case, determines the format.

    Args:
        path: `.safetensors` file, or a file written by `torch.save` (`PTH_SUFFIXES`).

    Returns:
        Arrays by name. For a file of `torch.save`, the saved object, with arrays for tensors.

    Raises:
        UserError: the suffix is unknown, or the file is damaged or cannot be read safely.
    """
    path = Path(path)
    check_no_pointer(path)
    name = path.name.lower()
    if name.endswith(PTH_SUFFIXES):
        _check_not_mindspore(path)
        return read_pth(path)
    if not name.endswith(".safetensors"):
        suffixes = " ".join((*PTH_SUFFIXES, ".safetensors"))
        raise UserError.expected(f"a weight file ({suffixes})", path, "Name another file")
    return dict(SafeTensors(path))


class SafeTensors(Mapping[str, np.ndarray]):
    """Arrays of a `.safetensors` file by name. Each one is read from the file when it is used.

    Args:
        path: the file.

    Raises:
        UserError: the file is damaged; also if an array is read whose dtype NumPy does not have.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = Path(path)
        check_no_pointer(self._path)
        with self._opened() as file:
            self._names = dict.fromkeys(file.keys())

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        # Opened for each array, because pages that were read stay in memory while it is open.
        with self._opened() as file:
            return file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[safetensors.safe_open]:
        try:
            # safetensors calls each file that it cannot open missing; open() gives the reason.
            with open(self._path, "rb"), safetensors.safe_open(self._path, "numpy") as file:
                yield file
        # AttributeError and TypeError: a dtype that NumPy does not support.
        except (OSError, safetensors.SafetensorError, AttributeError, TypeError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise UserError.expected(
                "a complete .safetensors file",
                f"{self._path}: {reason}",
                "Correct the path or the file",
            ) from error


def _check_not_mindspore(path: Path) -> None:
    """Raises UserError for a checkpoint of MindSpore."""
    suffix, start = _MINDSPORE
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if path.suffix.lower() == suffix and file.read(1) == start:
            raise UserError.expected(
                f"weights of PyTorch in {path}",
                "a checkpoint of MindSpore",
                "Use the .pth file of the same model",
            )


def check_no_pointer(path: Path) -> None:
    """Checks that a file is not a git-lfs pointer, which git writes if git-lfs is not installed.

    Raises:
        UserError: it is a pointer.
    """
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError.expected(
                f"weights in {path}",
                "a git-lfs pointer to the file",
                "Fetch it with `git lfs pull`, or download the file itself",
            )


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a `.safetensors` file: writes a temporary file, then renames it.

    Args:
        path: file to write; its folder is created, and an existing file is replaced.
        tensors: arrays by name.

    Raises:
        UserError: the suffix is not .safetensors, or the file cannot be written; an existing file
            is left unchanged.
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
