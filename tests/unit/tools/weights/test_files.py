"""Weight files as PyTorch writes them, damaged ones, and ones that want to run something."""

import argparse
import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from tools.errors import UserError
from tools.weights.files import read_weights, write_safetensors

TYPES = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "u1": "Byte", "b1": "Bool"}


class Global:
    """A name that a pickle asks for, without what it stands for."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """A call that a pickle asks for."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Storage:
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
        else:
            super().save(value, *args, **kwargs)


def tensor(kind, key, size, shape, strides, offset=0):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, Storage(kind, key, size), offset, shape, strides, False, OrderedDict())


def save(path, content, storages=None, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    """Writes the zip form of `torch.save`."""
    stream = io.BytesIO()
    Writer(stream, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", byteorder)
        for key, array in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", b"3\n")


def refusal(path):
    with pytest.raises(UserError) as error:
        read_weights(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", TYPES)
def test_pth_types(tmp_path, rng, dtype):
    path = tmp_path / "weights.pth"
    array = (rng.standard_normal((2, 3)) * 5).astype(dtype)
    save(path, OrderedDict(a=tensor(TYPES[dtype], "0", 6, (2, 3), (3, 1))), {"0": array})
    read = read_weights(path)["a"]
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_pth_views_share_a_storage(tmp_path):
    path, data = tmp_path / "weights.pth", np.arange(12, dtype="f4")
    parameter = Call(
        Global("torch._utils", "_rebuild_parameter"),
        tensor("Float", "0", 12, (3, 2), (1, 3), 6),
        True,
        OrderedDict(),
    )
    content = {
        "model": {"transposed": parameter, "empty": tensor("Float", "0", 12, (0, 4), (4, 1))},
        "scalar": tensor("Float", "0", 12, (), (), 7),
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "rates": [0.5, None, True, ("x",)],
    }
    save(path, content, {"0": data})
    read = read_weights(path)
    np.testing.assert_array_equal(read["model"]["transposed"], data[6:].reshape(2, 3).T)
    assert read["model"]["empty"].shape == (0, 4)
    assert read["scalar"] == 7
    assert read["args"].lr == 0.1
    assert (read["epoch"], read["rates"]) == (3, [0.5, None, True, ("x",)])


def test_pth_bfloat16_is_widened(tmp_path):
    path, values = tmp_path / "weights.pt", np.array([1.0, -2.5, 3e38, 0.0], "f4")
    halves = (values.view("u4") >> 16).astype("u2")
    save(path, {"a": tensor("BFloat16", "0", 4, (4,), (1,))}, {"0": halves})
    np.testing.assert_array_equal(read_weights(path)["a"], (halves.astype("u4") << 16).view("f4"))


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_hostile_pickle_runs_nothing(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    save(path, {"model": Attack(trace)})
    assert "posix.system" in refusal(path) or "nt.system" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("os", "system"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch", "load"),
        ("numpy", "load"),
        ("tools.weights.pth", "read_pth"),
    ],
)
def test_other_names_are_refused(tmp_path, module, name):
    save(tmp_path / "weights.pth", {"a": Global(module, name)})
    assert f"{module}.{name}" in refusal(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("size", "shape", "strides", "offset"),
    [
        (4, (5,), (1,), 0),
        (4, (4,), (1,), 1),
        (4, (2, 2), (3, 1), 1),
        (4, (2,), (-1,), 3),
        (4, (1 << 40,), (0,), 0),
        (4, (2,), (1,), -1),
        (4, (2, 2), (1,), 0),
        (5, (4,), (1,), 0),
    ],
)
def test_tensors_stay_inside_their_storage(tmp_path, size, shape, strides, offset):
    path = tmp_path / "weights.pth"
    save(path, {"a": tensor("Float", "0", size, shape, strides, offset)}, {"0": np.ones(4, "f4")})
    refusal(path)


def test_every_truncation_is_refused(tmp_path):
    whole, path = tmp_path / "whole.pth", tmp_path / "weights.pth"
    save(whole, {"a": tensor("Float", "0", 4, (4,), (1,))}, {"0": np.ones(4, "f4")})
    data = whole.read_bytes()
    for size in range(0, len(data), 37):
        path.write_bytes(data[:size])
        refusal(path)


def test_damaged_streams_are_refused(tmp_path):
    stream = io.BytesIO()
    Writer(stream, protocol=2).dump({"a": [1, 2.5, "x"], "b": tensor("Float", "0", 1, (1,), (1,))})
    data, path = stream.getvalue(), tmp_path / "weights.pth"
    ends = [place for _, _, place in pickletools.genops(data)]
    for end in ends:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", data[:end])
        refusal(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "zip" in refusal(path)
    save(path, {"a": 1}, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)
    save(path, {"a": 1}, byteorder=b"big")
    assert "byte order" in refusal(path)
    with zipfile.ZipFile(path, "w"):
        pass
    refusal(path)
    refusal(tmp_path / "absent.pth")
    refusal(tmp_path)
    refusal(tmp_path / "weights.onnx")


def test_safetensors_round_trip(tmp_path, rng):
    path = tmp_path / "new" / "weights.safetensors"
    tensors = {"a": rng.standard_normal((2, 3)).astype("f4").T, "n": np.zeros((), "i8")}
    write_safetensors(path, tensors)
    read = read_weights(path)
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == value.dtype
    assert os.listdir(path.parent) == [path.name]


def test_safetensors_of_bfloat16(tmp_path):
    path, raw = tmp_path / "weights.safetensors", b"\x80\x3f\x00\x40"
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw)
    np.testing.assert_array_equal(read_weights(path)["a"].astype("f4"), [1.0, 2.0])


def test_damaged_safetensors_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"a": np.ones(4, "f4")})
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        refusal(path)
    refusal(tmp_path / "absent.safetensors")


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "weights.pth", tmp_path / "file" / "weights.safetensors"):
        with pytest.raises(UserError, match="Received: "):
            write_safetensors(path, {"a": np.ones(1)})
