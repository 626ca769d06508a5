"""Weight files as `torch.save` writes them, without PyTorch."""

import io
import pickle
import zipfile
from collections import OrderedDict


class Global:
    """A name that a pickle asks for, without what it stands for."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """A call that a pickle asks for."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class State:
    """A value to which a pickle gives a state."""

    def __init__(self, value, state):
        self.value, self.state = value, state


class Storage:
    """What a pickle says of the elements of a tensor, which lie in a file of their own."""

    def __init__(self, kind, key, size):
        self.pid = ("storage", Global("torch", f"{kind}Storage"), key, "cpu", size)


class Writer(pickle._Pickler):
    """Spells the names of PyTorch, which is not here."""

    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None

    def save(self, value, *args, **kwargs):
        if isinstance(value, Global):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(value, State):
            self.save(value.value)
            self.save(value.state)
            self.write(pickle.BUILD)
        else:
            super().save(value, *args, **kwargs)


def tensor(kind, key, size, shape, strides, offset=0):
    """A tensor as `torch.save` spells it.

    Args:
        kind: of its elements, such as `Float`.
        key: name of the storage's file.
        size: elements of the storage.
        shape: of the tensor.
        strides: in elements.
        offset: of the first element in the storage.
    """
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, Storage(kind, key, size), offset, shape, strides, False, OrderedDict())


def save(path, content, storages=None, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    """Writes the zip form of `torch.save`.

    Args:
        path: of the file.
        content: containers of numbers, `tensor`s, `Global`s and `Call`s.
        storages: arrays by the key of their storage.
        compression: of the archive.
        byteorder: that the archive tells.
    """
    stream = io.BytesIO()
    Writer(stream, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", byteorder)
        for key, array in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", b"3\n")


def save_legacy(path, content, storages, little_endian=True):
    """Writes what `torch.save` wrote before PyTorch 1.6; see `save`."""
    streams = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian}, content]
    with open(path, "wb") as file:
        for stream in [*streams, [*storages]]:
            LegacyWriter(file, protocol=2).dump(stream)
        for array in storages.values():
            file.write(array.size.to_bytes(8, "little") + array.tobytes())


class LegacyWriter(Writer):
    """Names a storage with the part of another one that it is: none."""

    def persistent_id(self, value):
        return (*value.pid, None) if isinstance(value, Storage) else None
