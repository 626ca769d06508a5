"""Reads files of `torch.save` without PyTorch, and without executing code from the file.

Tensors, containers, numbers and strings are read. All other objects, such as those of mmengine,
pathlib or NumPy, become a `Placeholder`: nothing is imported, looked up or executed.
"""

import io
import math
import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tools.errors import UserError

# bfloat16 is the upper half of a float32: it is read as uint16 and widened to float32.
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
# First pickles of a file written by PyTorch before 1.6: magic number and protocol version.
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LEGACY_START = pickle.dumps(_LEGACY_MAGIC, 2)[:-1]


class Placeholder:
    """Replaces an object of another package. Accepts all operations of a pickle and ignores them.

    Attributes:
        name: name of the replaced object, as `module.name`.
    """

    name = ""

    def __new__(cls, *_, **__):
        """Accepts any arguments."""
        return object.__new__(cls)

    def __init__(self, *_, **__):
        """Ignores all arguments."""

    def _take(self, *_):
        pass

    __setstate__ = __setitem__ = append = extend = add = _take

    def __call__(self, *_, **__):
        """Returns a new placeholder."""
        return type(self)()

    def __repr__(self):
        """Returns the name in angle brackets."""
        return f"<{self.name}>"


def _placeholder(module: str, name: str) -> type[Placeholder]:
    """Returns a new class for a name. Files share no classes, so none can affect another file."""
    return type("Placeholder", (Placeholder,), {"name": f"{module}.{name}"})


class _StorageType(NamedTuple):
    name: str


class _Function(NamedTuple):
    """A function that a file may call. A file cannot set attributes of it."""

    function: Callable

    def __call__(self, *arguments):
        return self.function(*arguments)


def _rebuild_tensor(storage, offset, shape, strides, *_) -> np.ndarray | Placeholder:
    """Returns an array view of a storage; raises UnpicklingError if the storage is too small."""
    if isinstance(storage, Placeholder):
        return storage
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


def _rebuild_parameter(tensor, *_) -> Any:
    return tensor


def _empty_dictionary(*_) -> dict:
    return {}


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _Function(_empty_dictionary),
    ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(_rebuild_parameter),
    ("torch", "Size"): tuple,
    ("argparse", "Namespace"): types.SimpleNamespace,  # arguments of the training run
    **{("torch", name): _StorageType(name) for name in _STORAGES},
}


class _Unpickler(pickle.Unpickler):
    """Unpickles containers, numbers, strings and tensors; other objects become placeholders.

    Args:
        stream: the pickle.
        read: function of a key that returns the bytes of a storage; None reads tensors as
            placeholders.

    Attributes:
        sizes: size of each storage in bytes by key, in the order of their first use.
    """

    def __init__(self, stream: BinaryIO, read: Callable[[str], bytes] | None):
        super().__init__(stream, encoding="utf-8")
        self._read, self.sizes = read, {}
        self._storages: dict[str, np.ndarray] = {}
        self._placeholders: dict[tuple[str, str], type[Placeholder]] = {}

    def find_class(self, module, name):
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        return self._placeholders.setdefault((module, name), _placeholder(module, name))

    def persistent_load(self, pid) -> np.ndarray | Placeholder:
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or (view and view != [None]):
            raise pickle.UnpicklingError("an unknown kind of storage")
        if not isinstance(storage_type, _StorageType):
            return _placeholder("torch", "Storage")()
        kind = np.dtype(_STORAGES[storage_type.name])
        self.sizes[key] = size * kind.itemsize
        if self._read is None:
            return _placeholder("torch", storage_type.name)()
        if key not in self._storages:
            values = np.frombuffer(self._read(key), kind)
            if values.size != size:
                raise pickle.UnpicklingError(f"{values.size} of {size} elements in a storage")
            if storage_type.name == "BFloat16Storage":
                values = (values.astype("<u4") << 16).view("<f4")
            self._storages[key] = values
        return self._storages[key]


def read_pth(path: Path) -> Any:
    """Reads a file written by `torch.save`, with arrays for tensors.

    Reads the zip format of PyTorch since 1.6 and the older format of several pickles. Compressed
    zip members are refused, as they could expand to any size; `torch.save` does not compress.

    Args:
        path: file to read.

    Returns:
        The saved object. Objects other than tensors and containers are `Placeholder`s.

    Raises:
        UserError: the file was not written by `torch.save`, or is incomplete.

    Source: the format of torch.save in PyTorch 1.6 and later, and the legacy format before.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_LEGACY_START)) == _LEGACY_START:
                file.seek(0)
                return _read_legacy(file)
        return _read_zip(path)
    except OSError as error:
        raise UserError.expected(
            "a readable weight file", f"{path}: {error.strerror or error}", "Correct the path"
        ) from error
    # Unpickling a damaged or malicious file can raise any exception.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError.expected(
            "tensors in containers, as written by torch.save",
            f"{path}: {reason}",
            "Fetch the file again, or save only the state_dict, or save as .safetensors",
        ) from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        folder = names[0].split("/")[0]
        if any(x.compress_type != zipfile.ZIP_STORED for x in archive.infolist()):
            raise pickle.UnpicklingError("a compressed archive")
        order = f"{folder}/byteorder"
        if order in names and archive.read(order) != b"little":
            raise pickle.UnpicklingError("tensors of another byte order")
        stream = io.BytesIO(archive.read(f"{folder}/data.pkl"))
        return _Unpickler(stream, lambda key: archive.read(f"{folder}/data/{key}")).load()


def _read_legacy(file: BinaryIO) -> Any:
    """Reads the legacy format.

    The file has five pickles: magic number, version, system, content, and the keys of the storages.
    The storages follow, each with its number of elements (8 bytes) and the elements.
    """
    magic, version, system = (_Unpickler(file, None).load() for _ in range(3))
    if (magic, version) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise pickle.UnpicklingError("another version of the format")
    if not (isinstance(system, dict) and system.get("little_endian", True)):
        raise pickle.UnpicklingError("tensors of another byte order")
    start = file.tell()
    look = _Unpickler(file, None)
    look.load()
    keys, data = _Unpickler(file, None).load(), {}
    if not isinstance(keys, list) or {*keys} != look.sizes.keys():
        raise pickle.UnpicklingError("storages that do not belong to the tensors")
    for key in keys:
        file.seek(8, io.SEEK_CUR)
        data[key] = file.read(look.sizes[key])
    file.seek(start)
    return _Unpickler(file, data.__getitem__).load()
