"""Weight files as PyTorch writes them, damaged ones, and ones that want to run something."""

import argparse
import collections
import contextlib
import datetime
import io
import json
import os
import pathlib
import pickle
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from tests.support.errors import refused
from tests.support.pickles import Call, Global, State, Storage, Writer, save, save_legacy, tensor
from tools.errors import UserError
from tools.weights.files import SafeTensors, read_weights, write_safetensors
from tools.weights.pth import Placeholder
from tools.weights.state_dict import state_dict

TYPES = {
    **{"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short"},
    **{"i1": "Char", "u1": "Byte", "b1": "Bool"},
}


FOUR = tensor("Float", "0", 4, (4,), (1,))
LONGS = tensor("Long", "3", 4, (4,), (1,))


def refusal(path):
    with refused(str(path)) as caught:
        read_weights(path)
    return str(caught.value)


@pytest.mark.parametrize("dtype", TYPES)
def test_pth_types(tmp_path, dtype):
    path = tmp_path / "weights.pth"
    array = (np.array([[-3, 0, 1], [2, 100, -100]]) * 1.5).astype(dtype)
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


def is_placeholder(value, name):
    return isinstance(value, Placeholder) and value.name == name


def test_hostile_pickle_runs_nothing(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    save(path, {"model": Attack(trace)})
    assert is_placeholder(read_weights(path)["model"], f"{os.system.__module__}.system")
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
def test_other_names_are_placeholders(tmp_path, module, name):
    """Also what they are called with, and what is made of what they give."""
    one = Global(module, name)
    save(tmp_path / "weights.pth", {"a": one, "b": Call(Call(one, 1), "touch x")})
    read = read_weights(tmp_path / "weights.pth")
    assert read["a"].name == f"{module}.{name}" and issubclass(read["a"], Placeholder)
    assert is_placeholder(read["b"], f"{module}.{name}")


def test_no_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "a_trap.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\nTrap = list")
    monkeypatch.syspath_prepend(tmp_path)
    save(tmp_path / "a.pth", {"a": Call(Global("a_trap", "Trap"))})
    assert is_placeholder(read_weights(tmp_path / "a.pth")["a"], "a_trap.Trap")
    assert not (tmp_path / "trace").exists() and "a_trap" not in sys.modules


class Many(list):
    """Pickled by appending, with a state."""


class Keyed(dict):
    """Pickled by setting items."""


class Slotted:
    __slots__ = ("x",)


OTHERS = {
    "path": pathlib.PurePosixPath("a/b"),
    "scalar": np.float64(76.2),
    "array": np.arange(3.0),
    "type": np.dtype("f4"),
    "list": Many([1, 2]),
    "dict": Keyed(a=1),
    "set": {1, 2},
    "date": datetime.date(2024, 1, 2),
    "complex": 1 + 2j,
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1]),
    "class": argparse.Action,
    "key": {pathlib.PurePosixPath("a"): 1},
}


def test_objects_of_everyday_training_lie_beside_the_weights(tmp_path):
    """Objects of other packages are placeholders; a `defaultdict` is a dictionary."""
    path, slotted = tmp_path / "weights.pth", Slotted()
    Many.__module__ = Keyed.__module__ = Slotted.__module__ = __name__
    slotted.x, others = 1, {**OTHERS, "many": Many([1])}
    others["many"].log = "of training"
    counts = collections.defaultdict(int, a=1)
    content = {**others, "slotted": slotted, "counts": counts, "model": {"a": FOUR}}
    save(path, content, {"0": np.ones(4, "f4")})
    read = read_weights(path)
    np.testing.assert_array_equal(read["model"]["a"], np.ones(4))
    assert read["counts"] == {"a": 1}
    assert is_placeholder(read["path"], f"{type(OTHERS['path']).__module__}.PurePosixPath")
    for name in ("scalar", "list", "dict", "set", "date", "many", "slotted"):
        assert isinstance(read[name], Placeholder), name
    found = state_dict(read)
    assert found.tensors.keys() == {"a"} and not found.is_ema


ALLOWED = (
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "FloatStorage"),
    ("argparse", "Namespace"),
    ("os", "system"),
)


@pytest.mark.parametrize(("module", "name"), ALLOWED)
@pytest.mark.parametrize("attribute", ["__defaults__", "__init__", "__new__", "x", "name"])
def test_no_file_changes_what_the_next_one_gives(tmp_path, module, name, attribute):
    """A pickle may set attributes of whatever it holds, such as a class or a function."""
    path, trap = tmp_path / "a.pth", Call(Global("os", "getcwd"))
    save(path, {"a": State(Global(module, name), (None, {attribute: trap}))})
    with contextlib.suppress(UserError):
        read_weights(path)
    save(path, {"a": FOUR, "b": Call(Global("argparse", "Namespace"))}, {"0": np.ones(4, "f4")})
    read = read_weights(path)
    np.testing.assert_array_equal(read["a"], np.ones(4))
    assert vars(read["b"]) == {}
    save(path, {"a": Global("os", "system")})
    assert read_weights(path)["a"].name == "os.system"


def test_no_file_makes_a_function_take_fewer_arguments(tmp_path):
    path, rebuild = tmp_path / "a.pth", Global("torch._utils", "_rebuild_tensor_v2")
    save(path, {"a": State(rebuild, (None, {"__defaults__": ((4,), (1,))}))})
    with contextlib.suppress(UserError):
        read_weights(path)
    save(path, {"a": Call(rebuild, Storage("Float", "0", 4), 0)}, {"0": np.ones(4, "f4")})
    refusal(path)


def test_a_tensor_of_an_unknown_type_is_a_placeholder(tmp_path):
    path = tmp_path / "a.pth"
    save(path, {"a": tensor("ComplexFloat", "0", 4, (4,), (1,))}, {"0": np.ones(4, "c8")})
    assert isinstance(read_weights(path)["a"], Placeholder)


def test_pickles_of_before_the_zip_form(tmp_path, rng):
    path = tmp_path / "weights.pth.tar"
    first, second = rng.standard_normal(6).astype("f4"), np.arange(4, dtype="i8")
    content = {
        "model": OrderedDict(a=tensor("Float", "7", 6, (2, 3), (3, 1)), n=LONGS),
        "same": tensor("Float", "7", 6, (3, 2), (1, 3)),
        "path": pathlib.PurePosixPath("a"),
    }
    save_legacy(path, content, {"7": first, "3": second})
    read = read_weights(path)
    np.testing.assert_array_equal(read["model"]["a"], first.reshape(2, 3))
    np.testing.assert_array_equal(read["model"]["n"], second)
    np.testing.assert_array_equal(read["same"], first.reshape(2, 3).T)
    data = path.read_bytes()
    for size in range(20, len(data), 23):
        path.write_bytes(data[:size])
        refusal(path)
    save_legacy(path, content, {"7": first, "3": second}, little_endian=False)
    assert "byte order" in refusal(path)
    save_legacy(path, content, {"7": first})
    refusal(path)


@pytest.mark.parametrize("name", ["tiny.ckpt", "tiny.CKPT"])
def test_a_checkpoint_of_mindspore_is_answered(name, tmp_path):
    tensor = b"\x0a\x0b\x0a\x04name\x12\x03\x08\x01\x12"  # field 1 with a message
    (tmp_path / name).write_bytes(tensor)
    with refused("a checkpoint of MindSpore. Use the .pth file of the same model"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["a.PTH", "a.Pt", "a.ckpt", "a.pth.tar", "a.BIN", "a.SafeTensors"])
def test_suffixes_of_every_day(tmp_path, name):
    if name.lower().endswith(".safetensors"):
        write_safetensors(tmp_path / "x.safetensors", {"a": np.ones(4, "f4")})
        (tmp_path / "x.safetensors").rename(tmp_path / name)
    else:
        save(tmp_path / name, {"a": FOUR}, {"0": np.ones(4, "f4")})
    np.testing.assert_array_equal(read_weights(tmp_path / name)["a"], np.ones(4))


@pytest.mark.parametrize(
    "name",
    [
        "mmengine_message_hub",
        "numpy_scalar",
        "defaultdict",
        "only_ema",
        "compiled_prefix",
        "legacy",
    ],
)
def test_reported_files(shared_data, name):
    path = shared_data / "reported" / "vision" / f"{name}.pth"
    if not path.is_file():
        pytest.skip(f"without {path}")
    found = state_dict(read_weights(path))
    assert found.is_ema == (name == "only_ema")
    ((name, value),) = found.tensors.items()
    assert name in ("cls_token", "backbone.cls_token") and value.shape == (1, 1, 384)


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


def test_safetensors_are_read_one_by_one(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"a": np.zeros(2, "f4"), "b": np.ones(2, "f4")})
    tensors = SafeTensors(path)
    assert tensors.keys() == {"a", "b"} and len(tensors) == 2 and "c" not in tensors
    with pytest.raises(KeyError):
        tensors["c"]
    np.testing.assert_array_equal(tensors["b"], np.ones(2))
    write_safetensors(path, {"a": np.zeros(2, "f4"), "b": np.full(2, 3, "f4")})
    np.testing.assert_array_equal(tensors["b"], np.full(2, 3))
    path.unlink()
    with refused("a complete .safetensors file"):
        tensors["a"]


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


def test_the_reason_why_safetensors_cannot_be_opened(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    for name, reason in (("folder", "Is a directory"), ("absent", "No such file or directory")):
        path = tmp_path / f"{name}.safetensors"
        with refused(f"Received: {path}: {reason}. Correct"):
            SafeTensors(path)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "weights.pth", tmp_path / "file" / "weights.safetensors"):
        with refused("Received: "):
            write_safetensors(path, {"a": np.ones(1)})
    # A folder is in the way: nothing stays beside it.
    (tmp_path / "folder.safetensors").mkdir()
    with refused("room and permission to write"):
        write_safetensors(tmp_path / "folder.safetensors", {"a": np.ones(1)})
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.safetensors"]


def test_a_second_file_takes_the_place_of_the_first(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"a": np.ones(4, "f4")})
    write_safetensors(path, {"b": np.zeros(2, "f4")})
    assert read_weights(path).keys() == {"b"}
    assert os.listdir(tmp_path) == [path.name]


def test_tensors_of_one_storage_are_views_of_its_parts(tmp_path):
    """Offsets and strides count elements, not bytes, and the second tensor reads nothing anew."""
    path, data = tmp_path / "weights.bin", np.arange(24, dtype="f8")
    content = {
        "head": tensor("Double", "0", 24, (4,), (1,)),
        "every_third": tensor("Double", "0", 24, (5,), (3,), 9),
        "last": tensor("Double", "0", 24, (2, 2), (2, 1), 20),
    }
    save(path, content, {"0": data})
    read = read_weights(path)
    assert read["head"].tolist() == [0, 1, 2, 3]
    assert read["every_third"].tolist() == [9, 12, 15, 18, 21]
    assert read["last"].tolist() == [[20, 21], [22, 23]]
    assert np.shares_memory(read["last"], read["every_third"])


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pth"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 377607901\n")
    assert "a git-lfs pointer" in refusal(path)
