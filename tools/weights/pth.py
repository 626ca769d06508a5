"""Reading `.pth` files without PyTorch, and without running what a hostile one asks for."""

import argparse
import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tools.errors import UserError

# bfloat16, the upper half of a float32, is read as such halves and widened.
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _StorageType(NamedTuple):
    name: str


def _rebuild_tensor(storage, offset, shape, strides, *_) -> np.ndarray:
    """Views a storage, which must hold as many elements, as an array."""
    sizes = (*shape, *strides, offset)
    if len(shape) != len(strides) or not all(isinstance(x, int) and x >= 0 for x in sizes):
        raise pickle.UnpicklingError("a tensor of impossible shape")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.size or (math.prod(shape) and last >= storage.size):
        raise pickle.UnpicklingError("a tensor that is larger than its storage")
    if not math.prod(shape):
        return np.zeros(shape, storage.dtype)
    steps = [stride * storage.itemsize for stride in strides]
    return np.ndarray(shape, storage.dtype, storage, offset * storage.itemsize, steps)


def _rebuild_parameter(tensor, *_) -> np.ndarray:
    return tensor


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("argparse", "Namespace"): argparse.Namespace,  # the arguments of a training run
    **{("torch", name): _StorageType(name) for name in _STORAGES},
}


class _Unpickler(pickle.Unpickler):
    """Admits containers, numbers, strings and tensors; every other name is an error."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")), encoding="utf-8")
        self._archive, self._folder = archive, folder
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module, name):
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the object {module}.{name}") from None

    def persistent_load(self, pid) -> np.ndarray:
        kind, storage_type, key, _, size = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError("an unknown kind of storage")
        if key not in self._storages:
            data = self._archive.read(f"{self._folder}/data/{key}")
            values = np.frombuffer(data, _STORAGES[storage_type.name])
            if values.size != size:
                raise pickle.UnpicklingError(f"{values.size} of {size} elements in a storage")
            if storage_type.name == "BFloat16Storage":
                values = (values.astype("<u4") << 16).view("<f4")
            self._storages[key] = values
        return self._storages[key]


def read_pth(path: Path) -> Any:
    """Reads what `torch.save` wrote, tensors as arrays.

    Only the zip form, PyTorch's since 1.6; its members are stored as they are, so nothing grows
    while it is read.

    Args:
        path: the file.

    Raises:
        UserError: not such a file, incomplete, or with anything in it but tensors in containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            folder = names[0].split("/")[0]
            if any(x.compress_type != zipfile.ZIP_STORED for x in archive.infolist()):
                raise pickle.UnpicklingError("a compressed archive")
            order = f"{folder}/byteorder"
            if order in names and archive.read(order) != b"little":
                raise pickle.UnpicklingError("tensors of another byte order")
            return _Unpickler(archive, folder).load()
    except OSError as error:
        raise UserError.expected(
            "a readable weight file", f"{path}: {error.strerror or error}", "Correct the path"
        ) from error
    # A damaged or hostile stream can raise anything at all; nothing else runs in here.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError.expected(
            "tensors in containers as torch.save writes them since 1.6 (a zip file)",
            f"{path}: {reason}",
            "Fetch it again, or save the state_dict alone or as .safetensors",
        ) from error
