"""ONNX files of others and of this project: converted, run on files of tensors, refused."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.errors import refused
from tests.support.onnx_graphs import make_model
from tools.cli import convert, run_bins
from tools.conversion.backends.onnxruntime import as_function
from tools.conversion.onnx_file import METADATA_KEY
from tools.conversion.pipeline import describe, source_hash
from tools.errors import UserError
from tools.families import read_examples
from tools.inference.runner import load

KERNEL = np.random.default_rng(3).standard_normal((12, 5)).astype("float32")


def model(batch="N", *, opset=11, side=2, metadata=None, kernel=KERNEL):
    """A matrix product of the images; the kernel is also an input, as old exporters write it."""
    shape = [batch, 3, side, 2]
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "kernel"], ["probs"]),
    ]
    ends = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]
    ends += [helper.make_tensor_value_info("kernel", TensorProto.FLOAT, list(kernel.shape))]
    out = [helper.make_tensor_value_info("probs", TensorProto.FLOAT, [batch, 5])]
    weights = [numpy_helper.from_array(kernel, "kernel")]
    graph = helper.make_graph(nodes, "graph", ends, out, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    if metadata is not None:
        made.metadata_props.add(key=METADATA_KEY, value=metadata)
    return made


@pytest.fixture
def write(tmp_path):
    def of(name="m.onnx", **how):
        onnx.save(model(**how), tmp_path / name)
        return tmp_path / name

    return of


@pytest.fixture
def images(rng, tmp_path):
    """Five images as raw files, and as an array."""
    (tmp_path / "bin").mkdir()
    values = rng.standard_normal((5, 3, 2, 2)).astype("<f4")
    for number, image in enumerate(values):
        image.tofile(tmp_path / "bin" / f"i{number}.bin")
    return values


def answers(tmp_path):
    rows = [(tmp_path / "out" / f"i{n}_0.txt").read_text().split() for n in range(5)]
    return np.array(rows, "float32")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", None])
def test_raw_files_run_through_a_file_of_others(backend, write, images, tmp_path, capsys):
    """Converted by the command of ATC, or as it is."""
    place = path = write()
    if backend:
        place = tmp_path / "m_bs4"
        line = f"--model={path} --framework=5 --output={place} --input_shape=input:4,3,2,2"
        assert convert.main([*line.split(), f"--backend={backend}"]) == 0
        manifest = json.loads((place / "manifest.json").read_text())
        assert manifest["request"]["backend"] == backend
        assert "opt_config" in manifest["not_applicable"]
        inputs = manifest["signatures"]["serving_default"]["inputs"]
        assert inputs == [["input", "float32", [4, 3, 2, 2]]]
    line = f"--model={place} --input={tmp_path}/bin --output={tmp_path}/out --outfmt=TXT"
    assert run_bins.main([*line.split(), "--batchsize=4"]) == 0
    np.testing.assert_allclose(answers(tmp_path), images.reshape(5, 12) @ KERNEL, rtol=1e-4)
    said = [x for x in capsys.readouterr().err.splitlines() if "no description" in x]
    assert len(said) == 1
    assert f"{path} has no description. Assumed: inputs input float32 [?, 3, 2, 2];" in said[0]
    assert "without any preprocessing" in said[0]


def test_ranges_and_the_second_conversion(write, tmp_path, capsys):
    flags = [f"--native_savedmodel_dir={write()}", "--backend=onnxruntime"]
    flags += [f"--converted_savedmodel_dir={tmp_path / 'c'}"]
    assert convert.main(flags) == 0
    assert load(tmp_path / "c").signatures["serving_default"][0].shape == ((1, 64), 3, 2, 2)
    shutil.move(tmp_path / "m.onnx", tmp_path / "other.onnx")
    flags[0] = f"--native_savedmodel_dir={tmp_path / 'other.onnx'}"
    assert convert.main(flags) == 0
    assert "already there" in capsys.readouterr().err.splitlines()[-1]
    write("other.onnx", kernel=2 * KERNEL)
    assert convert.main(flags) == 0
    assert "made in" in capsys.readouterr().err.splitlines()[-1]
    one = np.ones((1, 3, 2, 2), "float32")
    found = load(tmp_path / "c").run({"input": one})["probs"]
    np.testing.assert_allclose(found, 2 * KERNEL.sum(0, keepdims=True), rtol=1e-5)


def test_a_description_in_the_file_is_that_of_the_converted_model(write, tmp_path, capsys):
    told = {"family": "toy", "sizes": [1], "convert": {"serving_default": {"dim_range": {}}}}
    path = write(metadata=json.dumps(told))
    assert describe(path) == told == describe(path, "toy")
    flags = [f"--native_savedmodel_dir={path}", f"--converted_savedmodel_dir={tmp_path / 'c'}"]
    assert convert.main([*flags, "--backend=onnxruntime"]) == 0
    assert describe(tmp_path / "c", "toy") == told
    assert "no description" not in capsys.readouterr().err


def test_weights_in_a_file_beside_it_belong_to_it(tmp_path):
    path = tmp_path / "m.onnx"
    kernel = np.zeros((512, 5), "float32")
    hashes = set()
    for value in (0.0, 1.0):
        made = model(kernel=kernel + value)
        onnx.save(made, path, save_as_external_data=True, location="m.weights", size_threshold=0)
        hashes.add(source_hash(path))
        assert (tmp_path / "m.weights").stat().st_size == kernel.nbytes
        (tmp_path / "m.weights").unlink()
    assert len(hashes) == 2


def test_a_fixed_batch(write, images, tmp_path):
    """Smaller batches are padded, larger ones refused."""
    path = write(batch=4)
    runner = load(path)
    found = runner.run({"input": images[:3]})["probs"]
    np.testing.assert_allclose(found, images[:3].reshape(3, 12) @ KERNEL, rtol=1e-5)
    with refused("input of shape [4, 3, 2, 2]. Received: [5, 3, 2, 2]"):
        runner.run({"input": images})
    place = f"--converted_savedmodel_dir={tmp_path / 'c'}"
    with refused("0 ranges for input of shape [4, 3, 2, 2]"):
        convert.main([f"--model={path}", place, "--input_shape=input:8,3,2,2"])


@pytest.mark.parametrize("program", [convert, run_bins])
def test_files_that_are_no_models(program, write, tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    bad = KERNEL.copy()
    bad[3, 2] = np.nan
    for path, message in (
        (tmp_path / "text.onnx", "an ONNX model in"),
        (tmp_path / "empty.onnx", "an ONNX model in"),
        (tmp_path / "gone.onnx", "gone.onnx: no such file"),
        (write("nan.onnx", kernel=bad), "NaN or infinity in 1 tensors: kernel"),
        (write("told.onnx", metadata="{"), "a readable pipeline in the metadata of"),
        (write("list.onnx", metadata="[]"), "a readable pipeline in the metadata of"),
    ):
        more = ["--loop=1"] if program is run_bins else ["--backend=onnxruntime"]
        with refused(message):
            program.main([f"--model={path}", *more])


def test_what_a_file_without_a_description_cannot_do(write, tmp_path):
    path = write()
    with refused("an export of vision. Received: "):
        describe(path, "vision")
    with refused("--backend openvino or onnxruntime for an ONNX file"):
        convert.main([f"--model={path}", "--backend=xla", f"--output={tmp_path / 'c'}"])
    with refused("an ONNX file with a description for 8 bits"):
        read_examples(describe(path), tmp_path, 1, False)
    with refused("Use --model=conformer_base_bs1"):
        run_bins.main(["--model=conformer_base_bs1.om", "--loop=1"])


def test_old_operators_stay_as_they_are(write):
    """The graph is not rewritten, since the rewrites are for the newest operators."""
    session = onnxruntime.InferenceSession(write(opset=9))
    (found,) = session.run(None, {"input": np.ones((1, 3, 2, 2), "float32")})
    converted = load(write(opset=9)).run({"input": np.ones((1, 3, 2, 2), "float32")})
    np.testing.assert_array_equal(converted["probs"], found)


@pytest.mark.parametrize(
    ("nodes", "constant", "error", "message"),
    [
        (
            [
                helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
                helper.make_node("Gather", ["constant", "index"], ["y"]),
            ],
            np.ones(3, "float32"),
            UserError,
            "inputs on which the model can run. Received: .*idx=7",
        ),
        (
            [helper.make_node("Reshape", ["x", "constant"], ["y"])],
            np.array([2, 2]),
            RuntimeError,
            "(?s)cannot be reshaped",
        ),
    ],
)
def test_values_that_the_runtime_refuses_are_told_from_its_failures(
    nodes, constant, error, message
):
    model = make_model(nodes, {"x": [None]}, ["y"], {"constant": constant})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    run = as_function(onnxruntime.InferenceSession(model.SerializeToString(), options))
    with pytest.raises(error, match=message) as caught:
        run({"x": np.array([7.0], "float32")})
    assert error is RuntimeError or str(caught.value).isprintable()
